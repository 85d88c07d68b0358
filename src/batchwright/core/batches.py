"""Batches as users have them: a tensor, or a tuple, list or dict of such, with the examples along the first axis."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError

Batch = Any


def batch_length(batch: Batch) -> int:
    """Number of examples ``B`` in a batch: the first axis of its tensors.

    Raises:
        InputError: If the batch holds no tensor, or its tensors disagree.
    """
    lengths = {len(leaf) for leaf in tensors_of(batch) if leaf.ndim > 0}
    if len(lengths) != 1:
        raise InputError(
            f"every tensor of a batch must hold one example a row, got first axes {sorted(lengths)}; "
            "collate the examples along axis 0"
        )
    return lengths.pop()


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """The tensors of a batch in a fixed order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        for value in batch:
            yield from tensors_of(value)


def map_tensors(function: Any, batch: Batch) -> Batch:
    """The same nesting with ``function`` applied to each tensor."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return type(batch)({key: map_tensors(function, value) for key, value in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, value) for value in batch))
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return type(batch)(map_tensors(function, value) for value in batch)  # type: ignore[call-arg]
    return batch


def slice_batch(batch: Batch, start: int, stop: int) -> Batch:
    """Examples ``start`` to ``stop`` of a batch, as views."""
    return map_tensors(lambda leaf: leaf[start:stop] if leaf.ndim > 0 else leaf, batch)


def split_batch(batch: Batch, micro_batch_size: int) -> Iterator[Batch]:
    """Micro-batches in order, each of ``micro_batch_size`` examples; the last may be shorter.

    Raises:
        InputError: If ``micro_batch_size`` is below 1.
    """
    check_int("micro_batch_size", micro_batch_size, at_least=1)
    length = batch_length(batch)
    for start in range(0, length, micro_batch_size):
        yield slice_batch(batch, start, min(start + micro_batch_size, length))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; copies overlap with computation where the source is pinned."""
    return map_tensors(lambda leaf: leaf.to(device, non_blocking=True), batch)
