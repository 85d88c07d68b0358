"""Rules for norm layers: their scale and shift have as many elements as there are features, so each example's gradient is held."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from batchwright.measure.per_example.axis import ExampleAxis
from batchwright.measure.per_example.contributions import Dense, chunks
from batchwright.measure.per_example.ledger import Use
from batchwright.measure.per_example.recorder import Recorder
from batchwright.measure.per_example.separate import mixed_examples_error

Uses = tuple[Use | None, Use | None]


def layer_norm(
    recorder: Recorder,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    """`torch.nn.functional.layer_norm`."""
    axis = recorder.axis(input.shape[: input.ndim - len(normalized_shape)])
    if axis is None:
        return None
    uses = recorder.open(weight), recorder.open(bias)
    result: Tensor = _LayerNorm.apply(input, weight, bias, list(normalized_shape), eps, recorder, axis, uses)
    return result


def rms_norm(
    recorder: Recorder,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor | None:
    """`torch.nn.functional.rms_norm`."""
    axis = recorder.axis(input.shape[: input.ndim - len(normalized_shape)])
    if axis is None or weight is None:
        return None
    use = recorder.open(weight)
    result: Tensor = _RMSNorm.apply(input, weight, list(normalized_shape), eps, recorder, axis, use)
    return result


def group_norm(
    recorder: Recorder,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    """`torch.nn.functional.group_norm`."""
    axis = recorder.axis(input.shape[:1])
    if axis is None:
        return None
    uses = recorder.open(weight), recorder.open(bias)
    result: Tensor = _GroupNorm.apply(input, weight, bias, num_groups, eps, recorder, axis, uses)
    return result


def instance_norm(
    recorder: Recorder,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """`torch.nn.functional.instance_norm` without running statistics: a group norm of one channel a group."""
    if running_mean is not None or not use_input_stats:
        return None
    return group_norm(recorder, input, input.shape[1], weight, bias, eps)


def batch_norm(
    recorder: Recorder,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """`torch.nn.functional.batch_norm` with running statistics; with those of the batch it raises."""
    if training or running_mean is None or running_var is None:
        raise mixed_examples_error("batch_norm with statistics of the batch")
    axis = recorder.axis(input.shape[:1])
    if axis is None:
        return None
    uses = recorder.open(weight), recorder.open(bias)
    result: Tensor = _BatchNorm.apply(input, weight, bias, running_mean, running_var, eps, recorder, axis, uses)
    return result


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        shape: list[int],
        eps: float,
        recorder: Recorder,
        axis: ExampleAxis,
        uses: Uses,
    ) -> Tensor:
        output, mean, rstd = torch.native_layer_norm(input, shape, weight, bias, eps)
        ctx.save_for_backward(input, weight, mean, rstd)
        ctx.books = shape, recorder, axis, uses
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, rstd = ctx.saved_tensors
        shape, recorder, axis, uses = ctx.books
        grad_input = None
        if ctx.needs_input_grad[0]:
            # The kernel looks at the bias for nothing but its presence.
            mask = [True, False, False]
            grad_input = torch.ops.aten.native_layer_norm_backward(grad, input, shape, mean, rstd, weight, None, mask)[
                0
            ]
        num_features = len(shape)
        scale_shift = _scale_and_shift(
            recorder,
            uses,
            ctx.needs_input_grad[1:3],
            grad=axis.rows(grad, num_features),
            input=axis.rows(input, num_features),
            mean=axis.rows(mean, num_features),
            rstd=axis.rows(rstd, num_features),
            kept=0,
        )
        return grad_input, *scale_shift, None, None, None, None, None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        shape: list[int],
        eps: float | None,
        recorder: Recorder,
        axis: ExampleAxis,
        use: Use | None,
    ) -> Tensor:
        output = F.rms_norm(input, shape, weight, eps)
        ctx.save_for_backward(input, weight)
        ctx.books = shape, eps, recorder, axis, use
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        shape, eps, recorder, axis, use = ctx.books
        wide = torch.promote_types(input.dtype, torch.float32)
        eps = torch.finfo(wide).eps if eps is None else eps
        axes = tuple(range(-len(shape), 0))
        rstd = input.to(wide).square().mean(dim=axes, keepdim=True).add_(eps).rsqrt_()
        grad_input = None
        if ctx.needs_input_grad[0]:
            scaled = grad.to(wide) * weight
            slope = (scaled * input).mean(dim=axes, keepdim=True).mul_(rstd.square())
            grad_input = scaled.sub_(slope * input).mul_(rstd)
        scale, _ = _scale_and_shift(
            recorder,
            (use, None),
            (ctx.needs_input_grad[1], False),
            grad=axis.rows(grad, len(shape)),
            input=axis.rows(input, len(shape)),
            mean=None,
            rstd=axis.rows(rstd, len(shape)),
            kept=0,
        )
        return grad_input, scale, None, None, None, None, None


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        num_groups: int,
        eps: float,
        recorder: Recorder,
        axis: ExampleAxis,
        uses: Uses,
    ) -> Tensor:
        input = input.contiguous()
        count, channels = input.shape[:2]
        sizes = count, channels, math.prod(input.shape[2:])
        output, mean, rstd = torch.native_group_norm(input, weight, bias, *sizes, num_groups, eps)
        ctx.save_for_backward(input, weight, mean, rstd)
        ctx.books = sizes, num_groups, recorder, axis, uses
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, rstd = ctx.saved_tensors
        sizes, num_groups, recorder, axis, uses = ctx.books
        grad = grad.contiguous()
        grad_input = None
        if ctx.needs_input_grad[0]:
            grad_input = torch.ops.aten.native_group_norm_backward(
                grad, input, mean, rstd, weight, *sizes, num_groups, [True, False, False]
            )[0]
        each = sizes[1] // num_groups
        scale_shift = _scale_and_shift(
            recorder,
            uses,
            ctx.needs_input_grad[1:3],
            grad=axis.rows(grad.flatten(2), 2),
            input=axis.rows(input.flatten(2), 2),
            mean=axis.rows(mean.repeat_interleave(each, dim=1).unsqueeze(2), 2),
            rstd=axis.rows(rstd.repeat_interleave(each, dim=1).unsqueeze(2), 2),
            kept=1,
        )
        return grad_input, *scale_shift, None, None, None, None, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        eps: float,
        recorder: Recorder,
        axis: ExampleAxis,
        uses: Uses,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean.clone(), (var + eps).rsqrt())
        ctx.books = recorder, axis, uses
        return F.batch_norm(input, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, rstd = ctx.saved_tensors
        recorder, axis, uses = ctx.books
        per_channel = (1, -1) + (1,) * (input.ndim - 2)
        slope = rstd if weight is None else rstd * weight
        grad_input = grad * slope.view(per_channel) if ctx.needs_input_grad[0] else None
        flat = (len(input), input.shape[1], -1)
        scale_shift = _scale_and_shift(
            recorder,
            uses,
            ctx.needs_input_grad[1:3],
            grad=axis.rows(grad.reshape(flat), 2),
            input=axis.rows(input.reshape(flat), 2),
            mean=mean.view(1, 1, -1, 1),
            rstd=rstd.view(1, 1, -1, 1),
            kept=1,
        )
        return grad_input, *scale_shift, None, None, None, None, None, None


def _scale_and_shift(
    recorder: Recorder,
    uses: Uses,
    needed: Sequence[bool],
    *,
    grad: Tensor,
    input: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    kept: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the scale, ``sum_t grad * (input - mean) * rstd``, and of the shift, ``sum_t grad``, of each example.

    Args:
        recorder: Takes them in.
        uses: Of the scale and of the shift.
        needed: Whether each is wanted.
        grad: Shape ``(B, T, *features)``.
        input: Shape ``(B, T, *features)``.
        mean: Broadcasts to ``input``, with ``B`` rows or one; None for zero.
        rstd: As ``mean``.
        kept: Feature axes that the parameters have; with 1 the rest are summed over, with 0 all are kept.
    """
    summed = (1, *range(3, grad.ndim)) if kept else (1,)
    scale: Tensor | None = None
    shift: Tensor | None = None
    if needed[0]:
        parts = []
        for start, stop in chunks(grad, grad[0].numel() * grad.element_size()):
            rows, spread = input[start:stop], _cut(rstd, start, stop)
            normalized = rows * spread if mean is None else (rows - _cut(mean, start, stop)).mul_(spread)
            parts.append(normalized.mul_(grad[start:stop]).sum(dim=summed))
        scale = recorder.add(uses[0], Dense(torch.cat(parts)))
    if needed[1]:
        shift = recorder.add(uses[1], Dense(grad.sum(dim=summed)))
    return scale, shift


def _cut(statistic: Tensor, start: int, stop: int) -> Tensor:
    return statistic if len(statistic) == 1 else statistic[start:stop]
