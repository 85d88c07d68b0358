"""Coverage of the 95 % intervals of the noise scale: how often they hold the truth, as a markdown table.

    python benchmarks/coverage.py [--repeats N] [--problem gaussian|network]

``gaussian``: per-example gradients with a known mean and covariance. ``network``: a trained multilayer perceptron with a LayerNorm,
whose truth is that of all 20 000 examples that batches are drawn from with replacement. Each repeat measures at fixed parameters:
32 batches of 32 examples; for ``running``, 150 steps of four micro-batches of 32 with decay 0.97.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchwright.measure.noise import noise_scale
from batchwright.measure.running_noise import RunningNoiseScale, StepNoise

NUM_BATCHES, BATCH_SIZE, POOL = 32, 32, 20_000
STEPS, PARTS, DECAY = 150, 4, 0.97


class GaussianModel(nn.Module):
    """The gradient of an example is the example: three numbers for a norm layer, five for the head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3, bias=False)
        self.head = nn.Linear(5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :3] * self.norm.weight).sum(dim=1) + self.head(x[:, 3:]).squeeze(1)


class Gaussian:
    mean = torch.tensor([0.3, -0.4, 0.2, 0.1, 0.5, 0.3, -0.2, 0.4])
    sd = torch.linspace(0.5, 1.5, 8)

    def __init__(self) -> None:
        self.model = GaussianModel()
        self.truth = float(self.sd.square().sum() / self.mean.square().sum())

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        return self.gradients(size, generator)

    def gradients(self, size: int, generator: torch.Generator) -> Tensor:
        return self.mean + self.sd * torch.randn(size, 8, generator=generator)


class Network:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(POOL, 6, generator=generator)
        teacher = torch.randn(6, 3, generator=generator)
        self.y = (self.x @ teacher + 2 * torch.randn(POOL, 3, generator=generator)).argmax(dim=1)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, 3))
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        for _ in range(30):
            optimizer.zero_grad()
            self.loss(self.model, self.draw(64, generator)).mean().backward()
            optimizer.step()
        self.table = self._per_example_gradients()
        trace = self.table.var(dim=0, correction=0).sum()
        self.truth = float(trace / self.table.mean(dim=0).square().sum())

    def _per_example_gradients(self) -> Tensor:
        """All gradients, ``(N, D)``, in float64."""
        parameters = {name: value.detach() for name, value in self.model.named_parameters()}

        def one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(torch.func.functional_call(self.model, parameters, (x[None],)), y[None])

        rows = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(parameters, self.x, self.y)
        return torch.cat([row.flatten(1) for row in rows.values()], dim=1).double()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(POOL, (size,), generator=generator)
        return self.x[chosen], self.y[chosen]

    def gradients(self, size: int, generator: torch.Generator) -> Tensor:
        return self.table[torch.randint(POOL, (size,), generator=generator)]


def running(problem: Gaussian | Network, generator: torch.Generator) -> tuple[float, float]:
    """The interval after `STEPS` steps; the estimates of `MicroBatchNorms` are taken from the gradients themselves."""
    parts = problem.gradients(STEPS * PARTS * BATCH_SIZE, generator).double().view(STEPS, PARTS, BATCH_SIZE, -1)
    means = parts.mean(dim=2)
    weighted = BATCH_SIZE * means.square().sum(dim=(1, 2))
    whole = means.mean(dim=1).square().sum(dim=1)
    size = PARTS * BATCH_SIZE
    traces = (weighted - size * whole) / (PARTS - 1)
    average = RunningNoiseScale(DECAY)
    for trace, grad_sq_norm in zip(traces.tolist(), (whole - traces / size).tolist(), strict=True):
        average = average.update(StepNoise(trace=trace, grad_sq_norm=grad_sq_norm))
    interval = average.interval()
    assert interval is not None
    return interval.low, interval.high


def pooled(problem: Gaussian | Network, method: str, generator: torch.Generator) -> tuple[float, float]:
    batches = [problem.draw(BATCH_SIZE, generator) for _ in range(NUM_BATCHES)]
    found = noise_scale(problem.model, problem.loss, batches, method)
    return found.low, found.high


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--problem", choices=["gaussian", "network"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| problem | method | truth | covered | low > truth | high < truth | median high / low |")
    print("|---|---|---|---|---|---|---|")
    for name, make in (("gaussian", Gaussian), ("network", Network)):
        if options.problem not in (None, name):
            continue
        problem = make()
        for method in ("micro-batch", "per-example", "norm-layers", "running"):
            generator = torch.Generator().manual_seed(1)
            measure = running if method == "running" else lambda p, g, m=method: pooled(p, m, g)
            ends = np.array([measure(problem, generator) for _ in range(options.repeats)])
            above, below = (ends[:, 0] > problem.truth).mean(), (ends[:, 1] < problem.truth).mean()
            width = np.median(ends[:, 1] / np.maximum(ends[:, 0], 1e-12))
            print(
                f"| {name} | {method} | {problem.truth:.2f} | {1 - above - below:.1%} | {above:.1%} | {below:.1%} | {width:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
