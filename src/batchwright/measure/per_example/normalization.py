"""Rules for norm layers: their scale and shift have as many elements as there are features, so each example's gradient is held."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
    return _apply(_LayerNorm(list(normalized_shape), eps), recorder, input, weight, bias, len(normalized_shape))


def rms_norm(
    recorder: Recorder,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor | None:
    """`torch.nn.functional.rms_norm`."""
    if weight is None:
        return None
    return _apply(_RMSNorm(list(normalized_shape), eps), recorder, input, weight, None, len(normalized_shape))


def group_norm(
    recorder: Recorder,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    """`torch.nn.functional.group_norm`."""
    return _apply(_GroupNorm(num_groups, eps), recorder, input.contiguous(), weight, bias, input.ndim - 1)


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
    return _apply(_BatchNorm(running_mean, running_var, eps), recorder, input, weight, bias, input.ndim - 1)


@runtime_checkable
class _Kind(Protocol):
    """What sets one norm apart from another."""

    @property
    def kept(self) -> int:
        """Feature axes that scale and shift have; with 1 the rest are summed over, with 0 all are kept."""

    def forward(
        self, input: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The output, the mean (None for zero) and one over the standard deviation."""

    def input_grad(
        self, grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor
    ) -> Tensor:
        """The ordinary gradient to the input."""

    def rows(
        self, axis: ExampleAxis, grad: Tensor, input: Tensor, mean: Tensor | None, rstd: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """All but the weight with the example axis first, as `_scale_and_shift` takes them."""


@dataclass(frozen=True, slots=True)
class _LayerNorm:
    shape: list[int]
    eps: float
    kept: int = 0

    def forward(self, input: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        output, mean, rstd = torch.native_layer_norm(input, self.shape, weight, bias, self.eps)
        return output, mean, rstd

    def input_grad(
        self, grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor
    ) -> Tensor:
        # The kernel looks at the bias for nothing but its presence.
        settings = grad, input, self.shape, mean, rstd, weight, None, [True, False, False]
        found: Tensor = torch.ops.aten.native_layer_norm_backward(*settings)[0]
        return found

    def rows(
        self, axis: ExampleAxis, grad: Tensor, input: Tensor, mean: Tensor | None, rstd: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        count = len(self.shape)
        mean = None if mean is None else axis.rows(mean, count)
        return axis.rows(grad, count), axis.rows(input, count), mean, axis.rows(rstd, count)


@dataclass(frozen=True, slots=True)
class _RMSNorm:
    shape: list[int]
    eps: float | None
    kept: int = 0

    def forward(self, input: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, None, Tensor]:
        wide = torch.promote_types(input.dtype, torch.float32)
        eps = torch.finfo(wide).eps if self.eps is None else self.eps
        rstd = input.to(wide).square().mean(dim=self._axes, keepdim=True).add_(eps).rsqrt_()
        return F.rms_norm(input, self.shape, weight, self.eps), None, rstd

    def input_grad(
        self, grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor
    ) -> Tensor:
        assert weight is not None
        scaled = grad.to(rstd.dtype) * weight
        slope = (scaled * input).mean(dim=self._axes, keepdim=True).mul_(rstd.square())
        return scaled.sub_(slope * input).mul_(rstd)

    rows = _LayerNorm.rows

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.shape), 0))


@dataclass(frozen=True, slots=True)
class _GroupNorm:
    num_groups: int
    eps: float
    kept: int = 1

    def forward(self, input: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        sizes = self._sizes(input)
        output, mean, rstd = torch.native_group_norm(input, weight, bias, *sizes, self.num_groups, self.eps)
        return output, mean, rstd

    def input_grad(
        self, grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor
    ) -> Tensor:
        operands = grad.contiguous(), input, mean, rstd, weight
        mask = [True, False, False]
        found: Tensor = torch.ops.aten.native_group_norm_backward(
            *operands, *self._sizes(input), self.num_groups, mask
        )[0]
        return found

    def rows(
        self, axis: ExampleAxis, grad: Tensor, input: Tensor, mean: Tensor | None, rstd: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        assert mean is not None
        each = input.shape[1] // self.num_groups
        wide = [statistic.repeat_interleave(each, dim=1).unsqueeze(2) for statistic in (mean, rstd)]
        of_all = [axis.rows(tensor, 2) for tensor in (grad.flatten(2), input.flatten(2), *wide)]
        return of_all[0], of_all[1], of_all[2], of_all[3]

    def _sizes(self, input: Tensor) -> tuple[int, int, int]:
        return input.shape[0], input.shape[1], math.prod(input.shape[2:])


@dataclass(frozen=True, slots=True)
class _BatchNorm:
    running_mean: Tensor
    running_var: Tensor
    eps: float
    kept: int = 1

    def forward(self, input: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = self.running_mean, self.running_var
        output = F.batch_norm(input, mean, var, weight, bias, training=False, eps=self.eps)
        return output, mean.clone(), (var + self.eps).rsqrt()

    def input_grad(
        self, grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor
    ) -> Tensor:
        slope = rstd if weight is None else rstd * weight
        return grad * slope.view(1, -1, *(1,) * (input.ndim - 2))

    def rows(
        self, axis: ExampleAxis, grad: Tensor, input: Tensor, mean: Tensor | None, rstd: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        assert mean is not None
        flat = (len(input), input.shape[1], -1)
        statistics = mean.view(1, 1, -1, 1), rstd.view(1, 1, -1, 1)
        return axis.rows(grad.reshape(flat), 2), axis.rows(input.reshape(flat), 2), *statistics


def _apply(
    kind: _Kind, recorder: Recorder, input: Tensor, weight: Tensor | None, bias: Tensor | None, num_features: int
) -> Tensor | None:
    axis = recorder.axis(input.shape[: input.ndim - num_features])
    if axis is None:
        return None
    uses = recorder.open(weight), recorder.open(bias)
    result: Tensor = _Norm.apply(input, weight, bias, kind, recorder, axis, uses)
    return result


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        kind: _Kind,
        recorder: Recorder,
        axis: ExampleAxis,
        uses: Uses,
    ) -> Tensor:
        output, mean, rstd = kind.forward(input, weight, bias)
        ctx.save_for_backward(input, weight, mean, rstd)
        ctx.books = kind, recorder, axis, uses
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, rstd = ctx.saved_tensors
        kind, recorder, axis, uses = ctx.books
        grad_input = kind.input_grad(grad, input, weight, mean, rstd) if ctx.needs_input_grad[0] else None
        rows = kind.rows(axis, grad, input, mean, rstd)
        scale, shift = _scale_and_shift(recorder, uses, ctx.needs_input_grad[1:3], *rows, kept=kind.kept)
        return grad_input, scale, shift, None, None, None, None


def _scale_and_shift(
    recorder: Recorder,
    uses: Uses,
    needed: Sequence[bool],
    grad: Tensor,
    input: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    *,
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
