"""Normalising by ghosts: a plain form through which anything can differentiate, and fast ones with a backward pass of their own.

Which fast one depends on how the batch lies in memory: `ghost_rows` for images with the channels before the pixels, `ghost_blocks`
for large ghosts with the channels last, `ghost_segments` for all else. Each is a pair ``forward``, ``backward``.
"""

import math
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.nn import ghost_blocks, ghost_rows, ghost_segments
from batchwright.nn.ghost_statistics import Ghosts, moments, per_example

# Rows shorter than this cost more in bookkeeping than they save.
MIN_ROW = 12
# Values of a ghost from which a call of torch's kernel costs little beside its work.
MIN_BLOCK = 2**15


def normalise(
    x: Float[Tensor, "B C *S"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    ghosts: Ghosts,
    eps: float,
) -> tuple[Float[Tensor, "B C *S"], Float[Tensor, "K C"], Float[Tensor, "K C"]]:
    """Normalise each ghost by its own statistics, then scale and shift.

    Args:
        x: A batch.
        weight: Scale of each channel; None for 1.
        bias: Shift of each channel; None for 0.
        ghosts: How the batch is cut.
        eps: Added to the variance.

    Returns:
        The output in the data type and memory format of ``x``; mean and biased variance of each ghost, at least in float32 and
        detached.
    """
    if _plain_only(x):
        means, variances = moments(x, ghosts)
        return _plain(x, means, variances, weight, bias, ghosts, eps), means.detach(), variances.detach()
    return _Normalise.apply(x, weight, bias, ghosts, eps)  # type: ignore[no-any-return]


def _plain_only(x: Tensor) -> bool:
    """Whether something looks through the operations: a compiler, a functional transform, forward-mode differentiation."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _plain(
    x: Tensor,
    means: Tensor,
    variances: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    ghosts: Ghosts,
    eps: float,
) -> Tensor:
    scale = torch.rsqrt(variances + eps)
    if weight is not None:
        scale = scale * weight
    shift = -means * scale
    if bias is not None:
        shift = shift + bias
    axes = (..., *(None for _ in x.shape[2:]))
    out = torch.addcmul(per_example(shift, ghosts)[axes], x, per_example(scale, ghosts)[axes])
    return out.to(x.dtype)


def _form(x: Tensor, ghosts: Ghosts) -> ModuleType:
    """The fast form for this batch."""
    if x.device.type == "cpu" and x.ndim > 2:
        values = math.prod(x.shape[2:])
        if values >= MIN_ROW and x.is_contiguous():
            return ghost_rows
        if _channels_last(x) and ghosts.size * values * x.shape[1] > MIN_BLOCK:
            return ghost_blocks
    return ghost_segments


def _channels_last(x: Tensor) -> bool:
    return (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.ndim == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    )


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, ghosts: Ghosts, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide, weight_wide, bias_wide = _wide(x, weight, bias)
        out: Tensor
        out, means, variances = _form(wide, ghosts).forward(wide, weight_wide, bias_wide, ghosts, eps)
        ctx.save_for_backward(x, weight, bias, means, variances)
        ctx.ghosts, ctx.eps = ghosts, eps
        ctx.mark_non_differentiable(means, variances)
        return out.to(x.dtype), means, variances

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, means, variances = ctx.saved_tensors
        wanted = [
            want and tensor is not None for want, tensor in zip(ctx.needs_input_grad, (x, weight, bias), strict=False)
        ]
        if torch.is_grad_enabled():  # a graph of the gradient is asked for: the plain form gives it
            out = _plain(x, *moments(x, ctx.ghosts), weight, bias, ctx.ghosts, ctx.eps)
            inputs = [tensor for tensor, want in zip((x, weight, bias), wanted, strict=True) if want]
            found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
            graphed: tuple[Tensor | None, ...] = tuple(next(found) if want else None for want in wanted)
            return (*graphed, None, None)
        wide, weight_wide = _wide(x, weight, None)[:2]
        # The gradient lies in memory as the batch does: the forms walk through both together.
        like = torch.empty_like(wide).copy_(grad) if grad.stride() != wide.stride() else grad.to(wide.dtype)
        found_grads: tuple[Tensor, ...] = _form(wide, ctx.ghosts).backward(
            like, wide, weight_wide, means, variances, ctx.ghosts, ctx.eps, wanted[0]
        )
        narrow: tuple[Tensor | None, ...] = tuple(
            value.to(tensor.dtype) if want else None
            for value, tensor, want in zip(found_grads, (x, weight, bias), wanted, strict=True)
        )
        return (*narrow, None, None)


def _wide(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The same in the data type that sums over ``x`` are taken in."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype), None if weight is None else weight.to(dtype), None if bias is None else bias.to(dtype)
