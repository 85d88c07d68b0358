"""Ghost batch norm of any batch: the equal ghosts as one tensor ``(K, size, C, ...)``, the last as another of one ghost."""

import math

import torch
from torch import Tensor

from batchwright.nn.ghost_algebra import input_gradient, scale_and_shift
from batchwright.nn.ghost_statistics import Ghosts


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, ghosts: Ghosts, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, means and biased variances."""
    parts = _cut(x, ghosts)
    axes = _axes(x)
    inverse_counts = ghosts.inverse_counts(math.prod(x.shape[2:]), x.dtype, x.device)
    means = _joined([part.sum(dim=axes) for part in parts]).mul_(inverse_counts)
    squares = [
        (part - mean).square_().sum(dim=axes) for part, mean in zip(parts, _values(means, x, ghosts), strict=True)
    ]
    variances = _joined(squares).mul_(inverse_counts)
    scale, shift = scale_and_shift(means, variances, weight, bias, eps)
    out = torch.empty_like(x)
    for target, part, a, b in zip(
        _cut(out, ghosts), parts, _values(scale, x, ghosts), _values(shift, x, ghosts), strict=True
    ):
        torch.addcmul(b, part, a, out=target)
    return out, means, variances


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    means: Tensor,
    variances: Tensor,
    ghosts: Ghosts,
    eps: float,
    wants_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for the input (empty where not wanted), the scale and the shift."""
    parts, grads, axes = _cut(x, ghosts), _cut(grad, ghosts), _axes(x)
    ghost_grads = _joined([part.sum(dim=axes) for part in grads])
    products = _joined([(a * b).sum(dim=axes) for a, b in zip(parts, grads, strict=True)])
    inverse_counts = ghosts.inverse_counts(math.prod(x.shape[2:]), x.dtype, x.device)
    *factors, normalised = input_gradient(ghost_grads, products, means, variances, weight, eps, inverse_counts)
    grad_weight, grad_bias = normalised.sum(dim=0), ghost_grads.sum(dim=0)
    if not wants_input:
        return x.new_empty(0), grad_weight, grad_bias
    grad_x = torch.empty_like(x)
    shaped = (_values(factor, x, ghosts) for factor in factors)
    for target, part, grad_part, a, b, c in zip(_cut(grad_x, ghosts), parts, grads, *shaped, strict=True):
        torch.addcmul(c, grad_part, a, out=target)
        target.addcmul_(part, b)
    return grad_x, grad_weight, grad_bias


def _cut(x: Tensor, ghosts: Ghosts) -> list[Tensor]:
    head = ghosts.num_equal * ghosts.size
    parts = [x[:head].unflatten(0, (ghosts.num_equal, ghosts.size))] if head else []
    return [*parts, x[head:].unsqueeze(0)] if ghosts.last else parts


def _axes(x: Tensor) -> tuple[int, ...]:
    """The axes of a part that a ghost's sums are over."""
    return (1, *range(3, x.ndim + 1))


def _joined(values: list[Tensor]) -> Tensor:
    return torch.cat(values) if len(values) > 1 else values[0]


def _values(values: Tensor, x: Tensor, ghosts: Ghosts) -> list[Tensor]:
    """Values of the ghosts, shaped for each part."""
    shaped = values[(slice(None), None, slice(None), *(None for _ in x.shape[2:]))]
    parts = [shaped[: ghosts.num_equal]] if ghosts.num_equal else []
    return [*parts, shaped[ghosts.num_equal :]] if ghosts.last else parts
