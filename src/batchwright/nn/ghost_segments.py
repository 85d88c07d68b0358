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
    all_means, all_variances = [], []
    for part in parts:
        axes = _axes(part)
        mean = part.mean(dim=axes, keepdim=True)
        all_means.append(mean.flatten(1))
        all_variances.append((part - mean).square_().mean(dim=axes))
    means, variances = _joined(all_means), _joined(all_variances)
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
    parts, grads = _cut(x, ghosts), _cut(grad, ghosts)
    mean_grad = _joined([part.mean(dim=_axes(part)) for part in grads])
    mean_product = _joined([(a * b).mean(dim=_axes(a)) for a, b in zip(parts, grads, strict=True)])
    *factors, normalised = input_gradient(mean_grad, mean_product, means, variances, weight, eps)
    counts = ghosts.counts_like(means, math.prod(x.shape[2:]))
    grad_weight, grad_bias = (normalised * counts).sum(dim=0), (mean_grad * counts).sum(dim=0)
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


def _axes(part: Tensor) -> tuple[int, ...]:
    return (1, *range(3, part.ndim))


def _joined(values: list[Tensor]) -> Tensor:
    return torch.cat(values) if len(values) > 1 else values[0]


def _values(values: Tensor, x: Tensor, ghosts: Ghosts) -> list[Tensor]:
    """Values of the ghosts, shaped for each part."""
    shaped = values[(slice(None), None, slice(None), *(None for _ in x.shape[2:]))]
    parts = [shaped[: ghosts.num_equal]] if ghosts.num_equal else []
    return [*parts, shaped[ghosts.num_equal :]] if ghosts.last else parts
