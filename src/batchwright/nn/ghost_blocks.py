"""Ghost batch norm of large ghosts on a CPU with the channels last: torch's batch norm kernel on one ghost after another.

No view makes one kernel call of this layout, sums over its middle axes take twice the passes, and a large ghost is work enough
for a call. Measured in docs/benchmarks.md.
"""

import torch
from torch import Tensor

from batchwright.nn.ghost_statistics import Ghosts


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, ghosts: Ghosts, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, means and biased variances."""
    out = torch.empty_like(x)
    means, variances = x.new_zeros(2, ghosts.num, x.shape[1])
    inverse = x.new_empty(x.shape[1])
    for place, (part, target) in enumerate(zip(_cut(x, ghosts), _cut(out, ghosts), strict=True)):
        mean = x.new_empty(x.shape[1])
        # With momentum 1 the running statistics are those of this ghost; the variance is the unbiased one.
        torch.native_batch_norm(
            part, weight, bias, means[place], variances[place], True, 1.0, eps, out=(target, mean, inverse)
        )
    return out, means, variances - variances * ghosts.inverse_counts(x[0, 0].numel(), x.dtype)


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
    grad_x = torch.empty_like(x) if wants_input else x.new_empty(0)
    targets = _cut(grad_x, ghosts) if wants_input else [grad_x] * ghosts.num
    inverses = torch.rsqrt(variances + eps)
    grad_weight, grad_bias = x.new_zeros(2, x.shape[1])
    for part, grad_part, target, mean, inverse in zip(
        _cut(x, ghosts), _cut(grad, ghosts), targets, means, inverses, strict=True
    ):
        found, weight_part, bias_part = torch.ops.aten.native_batch_norm_backward(
            grad_part, part, weight, None, None, mean, inverse, True, eps, (wants_input, True, True)
        )
        if wants_input:
            target.copy_(found)
        grad_weight += weight_part
        grad_bias += bias_part
    return grad_x, grad_weight, grad_bias


def _cut(x: Tensor, ghosts: Ghosts) -> list[Tensor]:
    return list(x.split([ghosts.size] * ghosts.num_equal + [ghosts.last] * (ghosts.last > 0)))
