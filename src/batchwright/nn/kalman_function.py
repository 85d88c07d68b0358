"""Normalising ghosts by corrected statistics: a plain form that anything can differentiate, and a fast one for images on a CPU.

The fast form reads the batch as often as ghost batch norm does (`ghost_rows`); what the prior adds is worked out on one number a ghost
and channel. With means over a ghost of the output's gradient g and of g x, corrected mean μ and variance Σ, r = 1/√(Σ+ε), a = w r:

    P = mean(g x) - μ mean(g),   dμ = -a mean(g),   dΣ = -a r² P / 2
    dm = (1-q) (dμ + 2 q (m-p) dΣ),   dv = (1-q) dΣ,   dx = a g + dm + 2 dv (x - m)
    dp = q dμ - 2 q (1-q) (m-p) dΣ for the prior's mean, q dΣ for its variance (times the values in a ghost)
"""

import math
from typing import Any

import torch
from torch import Tensor

from batchwright.nn import ghost_rows
from batchwright.nn.channel_state import ChannelState
from batchwright.nn.ghost_algebra import scale_and_shift
from batchwright.nn.ghost_function import MIN_ROW, _plain_only
from batchwright.nn.ghost_statistics import Ghosts, moments, per_example
from batchwright.nn.kalman_fusion import fuse, gate_is_open

Normalised = tuple[Tensor, Tensor, Tensor]


def normalise_corrected(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    prior: ChannelState | None,
    gain: float,
    gate: float | None,
    ghosts: Ghosts,
    eps: float,
) -> Normalised:
    """Normalise each ghost by its statistics corrected by the prior, then scale and shift.

    Args:
        x: ``(B, C, ...)``.
        weight: Scale of each channel; None for 1.
        bias: Shift of each channel; None for 0.
        prior: Of ``x``; None for none.
        gain: Weight of the prior.
        gate: As of `fuse`.
        ghosts: How the batch is cut.
        eps: Added to the corrected variance.

    Returns:
        The output in the data type of ``x``; corrected mean and variance of each ghost, at least in float32. All differentiable.
    """
    if prior is not None:
        prior.checked(ghosts.num, x.shape[1])
    fast = x.device.type == "cpu" and x.ndim > 2 and x.is_contiguous() and math.prod(x.shape[2:]) >= MIN_ROW
    if not fast or _plain_only(x):
        return _plain(x, weight, bias, prior, gain, gate, ghosts, eps)
    pair = (None, None) if prior is None else (prior.mean, prior.var)
    return _Normalise.apply(x, weight, bias, *pair, gain, gate, ghosts, eps)  # type: ignore[no-any-return]


def _plain(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    prior: ChannelState | None,
    gain: float,
    gate: float | None,
    ghosts: Ghosts,
    eps: float,
) -> Normalised:
    means, variances = moments(x, ghosts)
    if prior is not None:
        means, variances = fuse(means, variances, prior, gain, gate)
    scale, shift = scale_and_shift(means, variances, weight, bias, eps)
    axes = (..., *[None] * (x.ndim - 2))
    out = torch.addcmul(per_example(shift, ghosts)[axes], x, per_example(scale, ghosts)[axes])
    return out.to(x.dtype), means, variances


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        prior_mean: Tensor | None,
        prior_var: Tensor | None,
        gain: float,
        gate: float | None,
        ghosts: Ghosts,
        eps: float,
    ) -> Normalised:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        means, variances = ghost_rows.statistics(wide, ghosts)
        mean, var = means, variances
        is_open = None
        if prior_mean is not None and prior_var is not None:
            mean, var = fuse(means, variances, ChannelState(mean=prior_mean, var=prior_var), gain, gate)
            is_open = None if gate is None or gain == 0 else gate_is_open(variances, prior_var, gate)
        if mean is means:  # an output must not be the tensor that is saved beside it
            mean, var = means.clone(), variances.clone()
        scale, shift = scale_and_shift(mean, var, _wide(weight, wide), _wide(bias, wide), eps)
        out = ghost_rows.scaled(wide, scale, shift, ghosts).to(x.dtype)
        ctx.save_for_backward(x, weight, bias, prior_mean, prior_var, means, mean, var, is_open)
        ctx.options = (gain, gate, ghosts, eps)
        ctx.set_materialize_grads(False)
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, prior_mean, prior_var, means, mean, var, is_open = ctx.saved_tensors
        gain, gate, ghosts, eps = ctx.options
        inputs = (x, weight, bias, prior_mean, prior_var)
        wanted = [place for place, value in enumerate(inputs) if ctx.needs_input_grad[place] and value is not None]
        found: dict[int, Tensor] = {}
        if torch.is_grad_enabled():  # a graph of the gradient is asked for: the plain form gives it
            prior = None if prior_mean is None else ChannelState(mean=prior_mean, var=prior_var)
            outs = _plain(x, weight, bias, prior, gain, gate, ghosts, eps)
            pairs = [(out, grad) for out, grad in zip(outs, grads, strict=True) if grad is not None]
            parts = torch.autograd.grad(
                [out for out, _ in pairs],
                [inputs[place] for place in wanted],
                [grad for _, grad in pairs],
                create_graph=True,
                allow_unused=True,
            )
            found = {place: part for place, part in zip(wanted, parts, strict=True) if part is not None}
        else:
            found = _gradients(grads, inputs, means, mean, var, is_open, gain, ghosts, eps)
        return (
            *(
                found[place].to(inputs[place].dtype) if place in wanted and place in found else None
                for place in range(5)
            ),
            *(None for _ in range(4)),
        )


def _gradients(
    grads: tuple[Tensor | None, ...],
    inputs: tuple[Tensor | None, ...],
    means: Tensor,
    mean: Tensor,
    var: Tensor,
    is_open: Tensor | None,
    gain: float,
    ghosts: Ghosts,
    eps: float,
) -> dict[int, Tensor]:
    """Gradients by the place of the input; those of sums over a ghost are kept as means over it until the end."""
    x, weight, bias, prior_mean, prior_var = inputs
    assert x is not None
    wide = x.to(means.dtype)
    grad = torch.zeros_like(wide) if grads[0] is None else grads[0].to(means.dtype).contiguous()
    mean_grad, mean_product = ghost_rows.gradient_means(wide, grad, ghosts)
    inverse_counts = ghosts.inverse_counts(math.prod(x.shape[2:]), means.dtype)
    inverse = torch.rsqrt(var + eps)
    scale = inverse if weight is None else inverse * weight.to(inverse.dtype)
    centred = torch.addcmul(mean_product, mean, mean_grad, value=-1)
    found: dict[int, Tensor] = {}
    if weight is not None:
        found[1] = (inverse * centred / inverse_counts).sum(0)
    if bias is not None:
        found[2] = (mean_grad / inverse_counts).sum(0)
    grad_mean = -scale * mean_grad
    grad_var = -0.5 * scale * inverse.square() * centred
    if grads[1] is not None:
        grad_mean = grad_mean + grads[1] * inverse_counts
    if grads[2] is not None:
        grad_var = grad_var + grads[2] * inverse_counts
    batch_mean, batch_var = grad_mean, grad_var
    if prior_mean is not None and prior_var is not None:
        q: Tensor | float = gain if is_open is None else gain * is_open.to(means.dtype)
        offset = means - prior_mean.to(means.dtype)
        if is_open is not None:
            offset = torch.where(is_open, offset, 0.0)
        cross = 2 * q * offset * grad_var
        batch_mean, batch_var = (1 - q) * (grad_mean + cross), (1 - q) * grad_var
        for place, value in ((3, q * grad_mean - (1 - q) * cross), (4, q * grad_var)):
            whole = value / inverse_counts
            found[place] = whole.sum(0, keepdim=True) if prior_mean.shape[0] == 1 else whole
    slope = 2 * batch_var
    found[0] = ghost_rows.combined(grad, wide, scale, slope, batch_mean - slope * means, ghosts)
    return found


def _wide(value: Tensor | None, like: Tensor) -> Tensor | None:
    return None if value is None else value.to(like.dtype)
