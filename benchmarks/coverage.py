"""Coverage of the 95 % intervals of the noise scale: how often they hold the truth, as a markdown table.

    python -m benchmarks.coverage [--repeats N] [--problem gaussian|network] [--method NAME]

``gaussian``: per-example gradients with a known mean and covariance. ``network``: a trained multilayer perceptron with a LayerNorm,
whose truth is that of all 20 000 examples that batches are drawn from with replacement. Each repeat measures at fixed parameters:
32 batches of 32 examples; for ``running``, 150 steps of four micro-batches of 32 with decay 0.97; for ``ranks``, the same of four ranks
of 16, 32, 48 and 32 examples whose means weigh the same. ``one layer`` is the last weight alone, ``adam`` the gradient over what Adam
divides it by after 50 steps, ``l1`` and ``nuclear`` the dual norms. Coverages are with the binomial standard error.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchwright.measure.dual_norms import dual_noise_scale
from batchwright.measure.noise import noise_scale
from batchwright.measure.noise_groups import adam_divisors, noise_scale_by_group
from batchwright.measure.noise_ranks import rank_step_noise
from batchwright.measure.running_noise import RunningNoiseScale, StepNoise

NUM_BATCHES, BATCH_SIZE, POOL = 32, 32, 20_000
STEPS, PARTS, DECAY = 150, 4, 0.97
RANK_SIZES = (16, 32, 48, 32)

Ends = tuple[float, float]


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
        self.last, self.divisors = "head.weight", divisors(self)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.mean, torch.diag(self.sd.square())

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
        self.last, self.divisors = "3.weight", divisors(self)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.table.mean(dim=0), torch.cov(self.table.T, correction=0)

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


Problem = Gaussian | Network


def divisors(problem: Problem) -> dict[str, Tensor]:
    """What Adam divides by after 50 steps that leave the model where it is."""
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(problem.model.parameters(), lr=0.0)
    for _ in range(50):
        optimizer.zero_grad()
        problem.loss(problem.model, problem.draw(BATCH_SIZE, generator)).mean().backward()
        optimizer.step()
    return adam_divisors(problem.model, optimizer)


def truth(problem: Problem, method: str) -> float:
    """The quantity that a method's interval should hold, from mean and covariance of a per-example gradient."""
    mean, covariance = (moment.double() for moment in problem.moments())
    named = list(problem.model.named_parameters())
    places = dict(zip([name for name, _ in named], np.cumsum([0] + [p.numel() for _, p in named])[:-1], strict=True))
    if method == "l1":
        return float(covariance.diag().sqrt().sum() / mean.abs().sum()) ** 2
    if method == "nuclear":
        noise = norm = 0.0
        for name, parameter in named:
            if parameter.ndim > 1:
                here = slice(places[name], places[name] + parameter.numel())
                rows, columns = parameter.shape
                block = covariance[here, here].view(rows, columns, rows, columns)
                short = (
                    block.diagonal(dim1=1, dim2=3).sum(-1)
                    if rows <= columns
                    else block.diagonal(dim1=0, dim2=2).sum(-1)
                )
                noise += float(torch.linalg.eigvalsh(short).clamp(min=0).sqrt().sum())
                norm += float(torch.linalg.svdvals(mean[here].view(rows, columns)).sum())
        return (noise / norm) ** 2
    variances = covariance.diag()
    if method == "adam":
        divisor = torch.cat([problem.divisors[name].flatten() for name, _ in named]).double()
        mean, variances = mean / divisor, variances / divisor**2
    if method == "one layer":
        here = slice(places[problem.last], places[problem.last] + dict(named)[problem.last].numel())
        mean, variances = mean[here], variances[here]
    return float(variances.sum() / mean.square().sum())


def running(problem: Problem, generator: torch.Generator) -> Ends:
    """The interval after `STEPS` steps; the estimates of `MicroBatchNorms` are taken from the gradients themselves."""
    parts = problem.gradients(STEPS * PARTS * BATCH_SIZE, generator).double().view(STEPS, PARTS, BATCH_SIZE, -1)
    means = parts.mean(dim=2)
    weighted = BATCH_SIZE * means.square().sum(dim=(1, 2))
    whole = means.mean(dim=1).square().sum(dim=1)
    size = PARTS * BATCH_SIZE
    traces = (weighted - size * whole) / (PARTS - 1)
    pairs = zip(traces.tolist(), (whole - traces / size).tolist(), strict=True)
    return averaged([StepNoise(trace=trace, grad_sq_norm=grad_sq_norm) for trace, grad_sq_norm in pairs])


def ranks(problem: Problem, generator: torch.Generator) -> Ends:
    """The same from ranks; the norms that `RankNoise` takes from DDP's buckets are taken from the gradients themselves."""
    steps = []
    for _ in range(STEPS):
        of_ranks = [
            part.mean(dim=0) for part in problem.gradients(sum(RANK_SIZES), generator).double().split(RANK_SIZES)
        ]
        local = torch.stack(of_ranks)
        reduced = float(local.mean(dim=0).square().sum())
        steps.append(
            rank_step_noise(local.square().sum(dim=1).numpy(), np.array(RANK_SIZES), reduced, weighting="ranks")
        )
    return averaged(steps)


def averaged(steps: list[StepNoise]) -> Ends:
    average = RunningNoiseScale(DECAY)
    for step in steps:
        average = average.update(step)
    interval = average.interval()
    assert interval is not None
    return interval.low, interval.high


def pooled(problem: Problem, method: str, generator: torch.Generator) -> Ends:
    model, loss = problem.model, problem.loss
    batches = [problem.draw(BATCH_SIZE, generator) for _ in range(NUM_BATCHES)]
    if method in ("l1", "nuclear"):
        dual = dual_noise_scale(model, loss, batches, method)
        return dual.low, dual.high
    if method == "adam":
        found = noise_scale(model, loss, batches, divide_by=problem.divisors)
    elif method == "one layer":
        found = noise_scale_by_group(model, loss, batches)[problem.last]
    else:
        found = noise_scale(model, loss, batches, method)
    return found.low, found.high


METHODS = ("micro-batch", "per-example", "norm-layers", "one layer", "adam", "l1", "nuclear", "running", "ranks")
OF_STEPS: dict[str, Callable[[Problem, torch.Generator], Ends]] = {"running": running, "ranks": ranks}


def ends_of(problem: Problem, method: str, repeats: int) -> np.ndarray:
    """Lower and upper ends of the intervals of so many repeats, ``(repeats, 2)``."""
    generator = torch.Generator().manual_seed(1)
    measure = OF_STEPS.get(method) or (lambda problem, generator: pooled(problem, method, generator))
    return np.array([measure(problem, generator) for _ in range(repeats)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--problem", choices=["gaussian", "network"])
    parser.add_argument("--method", choices=METHODS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| problem | method | truth | covered | low > truth | high < truth | median high / low |")
    print("|---|---|---|---|---|---|---|")
    for name, make in (("gaussian", Gaussian), ("network", Network)):
        if options.problem not in (None, name):
            continue
        problem = make()
        for method in (options.method,) if options.method else METHODS:
            ends, true = ends_of(problem, method, options.repeats), truth(problem, method)
            above, below = (ends[:, 0] > true).mean(), (ends[:, 1] < true).mean()
            covered = 1 - above - below
            error = (covered * (1 - covered) / options.repeats) ** 0.5
            width = np.median(ends[:, 1] / np.maximum(ends[:, 0], 1e-12))
            print(
                f"| {name} | {method} | {true:.2f} | {covered:.1%} ± {error:.1%} | {above:.1%} | {below:.1%} | {width:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
