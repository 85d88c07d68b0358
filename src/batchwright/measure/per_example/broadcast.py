"""Rules for parameters without examples that meet the examples by broadcasting: biases, scales, positions, class tokens.

The parameter is given its example axis by a view of no memory just before; then what arrives there in the backward pass is
the gradient of each example.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from batchwright.measure.per_example.contributions import Contribution, Dense, Lookups
from batchwright.measure.per_example.ledger import Use
from batchwright.measure.per_example.recorder import Recorder, TableRead

Rule = Callable[..., Tensor | None]


def binary(func: Callable[..., Tensor]) -> Rule:
    """The rule of an elementwise operation of two operands, of which one is made of a parameter alone."""

    def rule(recorder: Recorder, input: Any, other: Any, *args: Any, **kwargs: Any) -> Tensor | None:
        operands = [input, other]
        shared = [recorder.ledger(value) is not None or recorder.read(value) is not None for value in operands]
        if sum(shared) != 1 or not all(isinstance(value, Tensor) for value in operands):
            return None
        place = shared.index(True)
        shape = torch.broadcast_shapes(input.shape, other.shape)
        operands[place] = give_examples(recorder, operands[place], shape)
        return None if operands[place] is None else func(*operands, *args, **kwargs)

    return rule


def expand(recorder: Recorder, input: Tensor, *sizes: Any) -> Tensor | None:
    """`Tensor.expand` to the number of examples."""
    sizes = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    shape = input.expand(*sizes).shape
    given = give_examples(recorder, input, shape)
    return None if given is None else given.expand(shape)


def expand_as(recorder: Recorder, input: Tensor, other: Tensor) -> Tensor | None:
    """`Tensor.expand_as` a tensor of the examples."""
    return expand(recorder, input, *other.shape)


def repeat(recorder: Recorder, input: Tensor, *repeats: Any) -> Tensor | None:
    """`Tensor.repeat` along a new or single axis, as often as there are examples."""
    repeats = tuple(repeats[0]) if len(repeats) == 1 and not isinstance(repeats[0], int) else repeats
    aligned = (1,) * (len(repeats) - input.ndim) + tuple(input.shape)
    shape = tuple(times * size for times, size in zip(repeats, aligned, strict=True))
    given = give_examples(recorder, input, torch.Size(shape))
    if given is None:
        return None
    rest = [1 if now == then else times for now, then, times in zip(given.shape, shape, repeats, strict=True)]
    return given.repeat(*rest)


def give_examples(recorder: Recorder, operand: Tensor, shape: torch.Size) -> Tensor | None:
    """The operand with as many axes as ``shape`` and one row an example, if it is broadcast along the examples."""
    axis = recorder.axis(shape)
    if axis is None:
        return None
    place = 1 if recorder.time_first or shape[0] != axis.num_examples else 0
    aligned = (1,) * (len(shape) - operand.ndim) + tuple(operand.shape)
    if len(shape) <= place or shape[place] != axis.num_examples or aligned[place] != 1:
        return None
    if torch._debug_has_internal_overlap(operand) != 0:
        return None
    read = recorder.read(operand)
    if read is None:
        use = recorder.open(operand)
    else:
        if read.use is not None:
            read.use.cancelled = True
        use = recorder.open(read.table)
    result: Tensor = _GiveExamples.apply(operand, aligned, place, recorder, use, read)
    return result


class _GiveExamples(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        operand: Tensor,
        aligned: tuple[int, ...],
        place: int,
        recorder: Recorder,
        use: Use | None,
        read: TableRead | None,
    ) -> Tensor:
        ctx.books = operand.shape, place, recorder, use
        ctx.read = None
        if read is not None:
            offset = operand.storage_offset() - read.rows.storage_offset()
            ctx.read = read.indices, read.rows.shape, len(read.table), (operand.stride(), offset)
        sizes = list(aligned)
        sizes[place] = recorder.num_examples or 1
        # Not a view of the parameter to autograd, for which every use of it would be one of the parameter.
        return operand.data.reshape(aligned).expand(sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        shape, place, recorder, use = ctx.books
        grads = grad.movedim(place, 0).reshape(grad.shape[place], *shape)
        contribution: Contribution = Dense(grads)
        if ctx.read is not None:
            contribution = _as_lookups(grads, *ctx.read)
        # The sum goes to the operand, which may be rows of the parameter: it is not the sum of the contribution.
        recorder.add(use, contribution, with_total=False)
        total = grads.sum(dim=0) if recorder.keep_gradient else None
        return total, None, None, None, None, None


def _as_lookups(
    grads: Tensor, indices: Tensor, shape: torch.Size, num_rows: int, view: tuple[tuple[int, ...], int]
) -> Lookups:
    """Gradients of a view of rows that were read, as additions to the table."""
    stride, offset = view
    rows = grads.new_zeros((len(grads), *shape))
    rows.as_strided(grads.shape, (shape.numel(), *stride), offset).copy_(grads)
    return Lookups(indices.reshape(1, -1).expand(len(grads), -1), rows.view(len(grads), -1, shape[-1]), num_rows)
