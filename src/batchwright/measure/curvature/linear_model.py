"""Linear regression on isotropic inputs: the one model in which every level between the two thresholds is known.

Inputs are uniform on a sphere in ``D`` dimensions whose squared radius is ``D``, so the mean Hessian is the identity, and fresh in
every batch of ``B``. Then the curvature's variance is ``(D - 1)/B`` along any direction, the mean-square boundary is exact, and with
``gamma = D/B`` batch sharpness is near ``(1 + 3 gamma + gamma^2)/(1 + gamma)`` (moments of Marchenko and Pastur's law). At the edge
heavy ball has ``BS lr/2`` of ``1 + b`` for large batches and ``1 - b`` for small ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.measure.curvature.mean_square import max_stable_lr


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeRatio:
    """Batch sharpness at the edge of stability in units of ``2/lr``.

    Attributes:
        value: ``BS lr*/2`` at the largest stable learning rate ``lr*``.
        standard_error: Of the value, from the draws.
        predicted: The same from the large-dimension formula.
        max_stable_lr: ``lr*``.
    """

    value: float
    standard_error: float
    predicted: float
    max_stable_lr: float


def edge_ratio(
    *,
    dim: int,
    batch_size: int,
    momentum: float = 0.0,
    nesterov: bool = False,
    num_draws: int = 400,
    generator: torch.Generator,
) -> EdgeRatio:
    """Batch sharpness at the edge for one batch size and momentum, by drawing batches.

    Args:
        dim: Dimension ``D``.
        batch_size: Examples a batch.
        momentum: In [0, 1).
        nesterov: Whether the step is Nesterov's in torch's form.
        num_draws: Batches drawn, at least 2.
        generator: Source of the inputs.

    Raises:
        InputError: If an argument is out of its range.
    """
    check_int("num_draws", num_draws, at_least=2)
    edge = edge_lr(dim=dim, batch_size=batch_size, momentum=momentum, nesterov=nesterov)
    draws = torch.stack([_batch_sharpness(sphere(batch_size, dim, generator)) for _ in range(num_draws)])
    gamma = dim / batch_size
    half = edge / 2
    return EdgeRatio(
        value=half * float(draws.mean()),
        standard_error=half * float(draws.std()) / num_draws**0.5,
        predicted=half * (1 + 3 * gamma + gamma**2) / (1 + gamma),
        max_stable_lr=edge,
    )


def edge_lr(*, dim: int, batch_size: int, momentum: float = 0.0, nesterov: bool = False) -> float:
    """Largest learning rate at which the second moment of the error does not grow.

    Raises:
        InputError: If an argument is out of its range.
    """
    check_int("dim", dim, at_least=1)
    check_int("batch_size", batch_size, at_least=1)
    return max_stable_lr(
        curvature_mean=1.0, curvature_variance=(dim - 1) / batch_size, momentum=momentum, nesterov=nesterov
    )


def growth_rate(
    *,
    lr: float,
    dim: int,
    batch_size: int,
    momentum: float = 0.0,
    nesterov: bool = False,
    num_steps: int = 2000,
    generator: torch.Generator,
) -> float:
    """Growth of the logarithm of the error's norm in one step, by training on fresh batches.

    The state is scaled back to unit norm as it goes, which changes nothing in a linear model. The first tenth is left out.

    Args:
        lr: Learning rate in torch's form.
        dim: Dimension ``D``.
        batch_size: Examples a batch.
        momentum: In [0, 1).
        nesterov: Whether the step is Nesterov's in torch's form.
        num_steps: Steps, at least 10.
        generator: Source of the start and the inputs.
    """
    check_int("num_steps", num_steps, at_least=10)
    theta = torch.randn(dim, generator=generator, dtype=torch.float64)
    theta /= theta.norm()
    buffer = torch.zeros_like(theta)
    warm_up, total = num_steps // 10, 0.0
    for step in range(num_steps):
        inputs = sphere(batch_size, dim, generator)
        grad = inputs.T @ (inputs @ theta) / batch_size
        buffer = momentum * buffer + grad
        theta = theta - lr * (grad + momentum * buffer if nesterov else buffer)
        size = torch.sqrt(theta.square().sum() + (lr * buffer).square().sum())
        theta, buffer = theta / size, buffer / size
        if step >= warm_up:
            total += float(size.log())
    return total / (num_steps - warm_up)


def sphere(num: int, dim: int, generator: torch.Generator) -> Tensor:
    """Points uniform on the sphere of squared radius ``dim``, shape ``(num, dim)``, float64."""
    points = torch.randn(num, dim, generator=generator, dtype=torch.float64)
    scaled: Tensor = points * (dim**0.5 / points.norm(dim=1, keepdim=True))
    return scaled


def _batch_sharpness(inputs: Tensor) -> Tensor:
    """``g^T H g / ||g||^2`` of one batch; by symmetry the error may point along the first axis."""
    size = len(inputs)
    grad = inputs.T @ inputs[:, 0] / size
    return (inputs @ grad).square().sum() / size / grad.square().sum()
