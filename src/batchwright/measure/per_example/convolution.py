"""Rules for convolutions of one to three axes, with groups, stride, padding and dilation, and for transposed ones.

Source: Rochette et al. (2019), arXiv:1912.06015 (per-example gradients of convolutions). Deviation: the windows of a few
examples at a time are copied and multiplied, which stands in for the ordinary weight gradient.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from batchwright.measure.per_example.axis import ExampleAxis
from batchwright.measure.per_example.broadcast import Rule
from batchwright.measure.per_example.contributions import Contribution, Dense, gram_is_cheaper, gram_sq_norms
from batchwright.measure.per_example.ledger import Use
from batchwright.measure.per_example.recorder import Recorder

Sizes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """How a convolution walks: all of its sizes but those of the tensors, one number an axis."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    transposed: bool
    output_padding: Sizes

    @property
    def settings(self) -> tuple[Any, ...]:
        """In the order of `torch.convolution` and its backward."""
        return self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups

    def backward(self, grad: Tensor, input: Tensor, weight: Tensor, *, to_weight: bool) -> Tensor:
        """The ordinary gradient to the weight or to the input."""
        mask = [not to_weight, to_weight, False]
        grads = torch.ops.aten.convolution_backward(grad, input, weight, None, *self.settings, mask)
        result: Tensor = grads[int(to_weight)]
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows(Contribution):
    """The gradient of a convolution's weight: products of one tensor with the windows of another.

    Attributes:
        points: Shape ``(B, T, O, *positions)``: output gradients, or the input of a transposed convolution.
        signal: Shape ``(B, T, C, *sizes)``: the input, or the output gradients of a transposed convolution.
        weight: The weight, ``(O, C / groups, *kernel)``, for its shape and type.
        geometry: How the windows lie in the signal.
    """

    points: Tensor
    signal: Tensor
    weight: Tensor
    geometry: Geometry

    @property
    def factor(self) -> Tensor:
        """The points."""
        return self.points

    @property
    def bytes_an_example(self) -> int:
        """Size of the windows and of the weight."""
        window_elements = self._num_positions * self.signal.shape[2] * math.prod(self.weight.shape[2:])
        return (window_elements + self.weight.numel()) * self.signal.element_size()

    def grads(self, start: int, stop: int) -> Tensor:
        """One matrix product of points and windows an example and group."""
        points, windows, channels_last = self._factors(start, stop)
        rows, columns, *kernel = self.weight.shape
        if not channels_last:
            return torch.bmm(points, windows.transpose(1, 2)).view(stop - start, rows, columns, *kernel)
        return torch.bmm(points, windows).view(stop - start, rows, *kernel, columns).movedim(-1, 2)

    def total(self) -> Tensor:
        """The ordinary gradient, by torch's own kernel."""
        points, signal = self.points.flatten(0, 1), self.signal.flatten(0, 1)
        grad, input = (signal, points) if self.geometry.transposed else (points, signal)
        return self.geometry.backward(grad, input, self.weight, to_weight=True)

    def sq_norms(self, *, with_total: bool) -> tuple[Tensor, Tensor | None]:
        """By Gram matrices where there are few positions."""
        groups = self.geometry.groups
        num_rows, num_columns = len(self.weight) // groups, math.prod(self.weight.shape[1:])
        if not gram_is_cheaper(self._num_positions, num_rows, num_columns):
            return Contribution.sq_norms(self, with_total=with_total)
        sq_norms = []
        for start, stop in self.chunks():
            points, windows, channels_last = self._factors(start, stop)
            windows = windows if channels_last else windows.transpose(1, 2)
            sq_norms.append(gram_sq_norms(points.transpose(1, 2), windows).view(-1, groups).sum(dim=1))
        return torch.cat(sq_norms), self.total() if with_total else None

    @property
    def _num_positions(self) -> int:
        return self.points.shape[1] * math.prod(self.points.shape[3:])

    def _factors(self, start: int, stop: int) -> tuple[Tensor, Tensor, bool]:
        """Points ``(n * groups, O / groups, P)`` and windows ``(n * groups, C / groups * kernel, P)`` of some examples.

        Where the signal has its channels last in memory, the windows are ``(n * groups, P, kernel * C / groups)``.
        """
        geometry, kernel = self.geometry, self.weight.shape[2:]
        groups, num_axes = geometry.groups, len(kernel)
        points, signal = self.points[start:stop], self.signal[start:stop]
        count, length, num_channels = signal.shape[:3]
        if any(geometry.padding):
            pads = [pad for pad in reversed(geometry.padding) for _ in range(2)]
            signal = F.pad(signal.flatten(0, 1), pads).unflatten(0, (count, length))
        steps = signal.stride()
        columns = num_channels // groups
        windows = signal.as_strided(
            (count, length, groups, columns, *kernel, *points.shape[3:]),
            (
                *steps[:2],
                steps[2] * columns,
                steps[2],
                *(step * dilation for step, dilation in zip(steps[3:], geometry.dilation, strict=True)),
                *(step * stride for step, stride in zip(steps[3:], geometry.stride, strict=True)),
            ),
        )
        channels_last = steps[2] == 1 and num_channels > 1
        in_kernel = range(4, 4 + num_axes)
        in_positions = range(4 + num_axes, 4 + 2 * num_axes)
        if channels_last:
            ordered = windows.permute(0, 2, 1, *in_positions, *in_kernel, 3)
            factor = ordered.reshape(count * groups, -1, math.prod(kernel) * columns)
        else:
            ordered = windows.permute(0, 2, 3, *in_kernel, 1, *in_positions)
            factor = ordered.reshape(count * groups, columns * math.prod(kernel), -1)
        points = points.unflatten(2, (groups, -1)).flatten(4).permute(0, 2, 3, 1, 4)
        return points.reshape(count * groups, points.shape[2], -1), factor, channels_last


def convolution(num_axes: int) -> Rule:
    """The rule of `torch.conv1d`, `torch.conv2d` or `torch.conv3d`."""

    def rule(
        recorder: Recorder,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor | None:
        if padding == "same":
            steps = zip(_sizes(dilation, num_axes), weight.shape[2:], strict=True)
            reach = [step * (size - 1) for step, size in steps]
            pads = [pad for total in reversed(reach) for pad in (total // 2, total - total // 2)]
            input, padding = F.pad(input, pads), 0
        elif padding == "valid":
            padding = 0
        return _convolve(recorder, (input, weight, bias), _geometry(num_axes, stride, padding, dilation, groups))

    return rule


def transposed_convolution(num_axes: int) -> Rule:
    """The rule of `torch.conv_transpose1d`, `torch.conv_transpose2d` or `torch.conv_transpose3d`."""

    def rule(
        recorder: Recorder, input: Tensor, weight: Tensor, bias: Tensor | None = None, *walk: Any, **named: Any
    ) -> Tensor | None:
        # In torch's order, which is another than that of a convolution.
        names = ("stride", "padding", "output_padding", "groups", "dilation")
        given = dict(zip(names, walk, strict=False)) | named
        geometry = _geometry(num_axes, transposed=True, **given)
        return _convolve(recorder, (input, weight, bias), geometry)

    return rule


def _geometry(
    num_axes: int,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: Any = 0,
) -> Geometry:
    return Geometry(
        stride=_sizes(stride, num_axes),
        padding=_sizes(padding, num_axes),
        dilation=_sizes(dilation, num_axes),
        groups=groups,
        transposed=transposed,
        output_padding=_sizes(output_padding, num_axes),
    )


def _sizes(value: Any, num_axes: int) -> Sizes:
    if isinstance(value, int):
        return (value,) * num_axes
    return tuple(value) * num_axes if len(value) == 1 else tuple(value)


def _convolve(recorder: Recorder, operands: tuple[Tensor, Tensor, Tensor | None], geometry: Geometry) -> Tensor | None:
    input, weight, bias = operands
    axis = recorder.axis(input.shape[:1]) if input.ndim == weight.ndim else None
    if axis is None:
        return None
    uses = recorder.open(weight), recorder.open(bias)
    result: Tensor = _Convolution.apply(input, weight, bias, geometry, recorder, axis, *uses)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        recorder: Recorder,
        axis: ExampleAxis,
        weight_use: Use | None,
        bias_use: Use | None,
    ) -> Tensor:
        output = torch.convolution(input, weight, bias, *geometry.settings)
        ctx.save_for_backward(input.to(output.dtype), weight.to(output.dtype))
        ctx.books = geometry, recorder, axis, weight_use, bias_use
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        geometry, recorder, axis, weight_use, bias_use = ctx.books
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        num_features = input.ndim - 1
        rows = axis.rows(grad, num_features)
        grad_weight, grad_bias = None, None
        if needs_weight:
            signal, points = axis.rows(input, num_features), rows
            if geometry.transposed:
                signal, points = points, signal
            windows = Windows(points=points, signal=signal, weight=weight, geometry=geometry)
            grad_weight = recorder.add(weight_use, windows)
        if needs_bias:
            grad_bias = recorder.add(bias_use, Dense(rows.sum(dim=(1, *range(3, rows.ndim)))))
        grad_input = geometry.backward(grad, input, weight, to_weight=False) if needs_input else None
        return grad_input, grad_weight, grad_bias, None, None, None, None, None
