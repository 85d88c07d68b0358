"""Rule for tables of which rows are read: embeddings of tokens, and of positions that all examples share."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from batchwright.measure.per_example.axis import ExampleAxis
from batchwright.measure.per_example.contributions import Lookups
from batchwright.measure.per_example.ledger import Use
from batchwright.measure.per_example.recorder import Recorder, TableRead


def embedding(
    recorder: Recorder,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor | None:
    """`torch.nn.functional.embedding`, repeated indices and ``padding_idx`` included."""
    if max_norm is not None or scale_grad_by_freq or sparse or recorder.ledger(weight) is None or input.ndim == 0:
        return None
    axis = recorder.axis(input.shape)
    # Indices such as `arange(T)` or `arange(T)[None]` belong to no example; where their rows meet the examples, they are
    # seen by `broadcast`. Only a vector as long as the batch could be both.
    may_be_shared = padding_idx is None and recorder.num_examples != 1 and (input.ndim == 1 or input.shape[0] == 1)
    per_example = axis is not None and (not may_be_shared or input.shape[0] == recorder.num_examples)
    if not may_be_shared and not per_example:
        return None
    use, rows = None, None
    if per_example and axis is not None:
        use = recorder.open(weight)
        skipped = -1 if padding_idx is None else padding_idx % len(weight)
        rows = _Embedding.apply(input, weight, skipped, recorder, axis, use)
    else:
        rows = F.embedding(input, weight)
    if may_be_shared:
        recorder.note_read(TableRead(rows, input, weight, use))
    return rows


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        indices: Tensor,
        weight: Tensor,
        skipped: int,
        recorder: Recorder,
        axis: ExampleAxis,
        use: Use | None,
    ) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.books = len(weight), skipped, recorder, axis, use
        return F.embedding(indices, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        num_rows, skipped, recorder, axis, use = ctx.books
        if skipped >= 0:
            grad = grad.masked_fill((indices == skipped).unsqueeze(-1), 0)
        lookups = Lookups(axis.rows(indices, 0), axis.rows(grad, 1), num_rows)
        return None, recorder.add(use, lookups), None, None, None, None
