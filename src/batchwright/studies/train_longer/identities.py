"""What has a closed form: the covariance of a batch's gradient with and without noise, and ghost batch norm as batch norms in a row."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from batchwright.core.preserve import RandomState
from batchwright.nn import GhostBatchNorm1d
from batchwright.studies.streams import stream
from batchwright.studies.study import Place
from batchwright.studies.train_longer.problems import digits
from batchwright.training.gradient_noise import noise_variance, noise_weights

NUM_TRAIN = 512
SMALL = 16
BLOCK = 500
# The exponents that the algorithm box of the paper is recalled with: |B_S| and i, for the old statistics and the ghosts.
PRINTED_CASES = ((16, 8), (128, 32))


def per_example_gradients(seed: int) -> Float[Tensor, "N D"]:
    """Gradients of the single examples of 512 digits in a fresh perceptron 64-16-10, in float64."""
    problem = digits(NUM_TRAIN, 0.0, seed)
    before = RandomState.capture()
    try:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    finally:
        before.restore()
    parameters = {name: each.detach() for name, each in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, values, (x[None],)), y[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, problem.inputs.double(), problem.labels)
    return torch.cat([each.flatten(1) for each in found.values()], dim=1)


def run_covariance(place: Place, *, batch_sizes: list[int], num_draws: int, seed: int) -> Mapping[str, Any]:
    """Total variance of batch gradients over many draws, beside its closed form.

    Returns:
        ``plain``: for each batch size the measured total variance over ``(1/M) (N-M)/(N-1) tr S0``. ``noise``: for each kind of
        weights, at the largest batch size, the measured total variance over that of a batch of `SMALL` examples; for independent
        weights of variance ``M/m - 1`` also what the mean gradient adds to it in closed form.
    """
    gradients = per_example_gradients(seed)
    generator = stream(seed, "train-longer", "covariance")
    number = len(gradients)
    mean = gradients.mean(0)
    spread = float((gradients - mean).square().sum(1).mean())
    second = float(gradients.square().sum(1).mean())

    def closed(size: int) -> float:
        return spread / size * (number - size) / (number - 1)

    plain = []
    for size in batch_sizes:
        found = _total_variance(gradients, mean, size, num_draws, generator, "")
        plain.append({"batch_size": size, "ratio": found / closed(size)})
    large = max(batch_sizes)
    noise = []
    for kind in ("balanced", "normal", "gamma"):
        found = _total_variance(gradients, mean, large, num_draws, generator, kind)
        expected = closed(SMALL)
        if kind != "balanced":
            expected = closed(large) + noise_variance(large, SMALL, kind=kind) * second / large
        noise.append({"kind": kind, "ratio": found / closed(SMALL), "closed": expected / closed(SMALL)})
    return {"plain": plain, "noise": noise, "large": large, "small": SMALL, "num_gradients": float(number)}


def _total_variance(
    gradients: Tensor, mean: Tensor, size: int, num_draws: int, generator: torch.Generator, kind: str
) -> float:
    """Mean squared distance of batch gradients from the mean gradient, which each is unbiased for."""
    total = 0.0
    for start in range(0, num_draws, BLOCK):
        block = min(BLOCK, num_draws - start)
        chosen = torch.rand(block, len(gradients), generator=generator).topk(size, dim=1).indices
        weights = torch.zeros(block, len(gradients), dtype=gradients.dtype)
        values = torch.ones(block, size, dtype=gradients.dtype)
        if kind:
            values = torch.stack(
                [noise_weights(size, SMALL, generator=generator, kind=kind) for _ in range(block)]
            ).double()
        weights.scatter_(1, chosen, values / size)
        total += float((weights @ gradients - mean).square().sum())
    return total / num_draws


def run_ghosts(place: Place, *, num_ghosts: int, ghost_size: int, num_features: int, seed: int) -> Mapping[str, Any]:
    """Ghost batch norm against batch norm called once a ghost, in float64.

    Returns:
        Largest differences of ``outputs``, ``gradients``, ``running`` statistics and ``evaluation``; ``weights``: what the weights of
        the running statistics sum to, and ``printed``: what those of the paper's algorithm box would.
    """
    generator = stream(seed, "train-longer", "ghosts")
    x = torch.randn(num_ghosts * ghost_size, num_features, generator=generator, dtype=torch.float64) * 3 + 1
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    ghost = GhostBatchNorm1d(num_features, ghost_size=ghost_size).double()
    plain = nn.BatchNorm1d(num_features).double()
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [ghost(inputs[0]), torch.cat([plain(part) for part in inputs[1].split(ghost_size)])]
    for out in outputs:
        (out * direction).sum().backward()
    pairs = {
        "outputs": [tuple(outputs)],
        "gradients": [
            (inputs[0].grad, inputs[1].grad),
            (ghost.weight.grad, plain.weight.grad),
            (ghost.bias.grad, plain.bias.grad),
        ],
        "running": [(ghost.running_mean, plain.running_mean), (ghost.running_var, plain.running_var)],
        "evaluation": [(ghost.eval()(x), plain.eval()(x))],
    }
    # Constant inputs of one: the running mean is then the sum of the weights of the new statistics, the old ones being zero.
    counter = GhostBatchNorm1d(1, ghost_size=ghost_size).double()
    counter(torch.ones(num_ghosts * ghost_size, 1, dtype=torch.float64))
    assert counter.running_mean is not None
    momentum = counter.momentum or 0.0
    return {
        **{name: max(_distance(a, b) for a, b in each) for name, each in pairs.items()},
        "weights": float(counter.running_mean) + (1 - momentum) ** num_ghosts,
        "printed": [_printed(size, number, momentum) for size, number in PRINTED_CASES],
        "num_gradients": 0.0,
    }


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    assert a is not None
    assert b is not None
    return float((a.detach() - b.detach()).abs().max())


def _printed(ghost_size: int, num_ghosts: int, momentum: float) -> float:
    return (1 - momentum) ** ghost_size + sum((1 - momentum) ** i * momentum for i in range(1, num_ghosts + 1))
