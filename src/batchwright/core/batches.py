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


def cut_batch(batch: Batch, start: int, stop: int) -> Batch:
    """As `slice_batch`, and lists of strings or numbers with one entry an example, as collating makes them, are cut too.

    Raises:
        InputError: If the batch holds something that cannot be cut by examples.
    """
    return _cut(batch, start, stop, batch_length(batch))


def _cut(batch: Batch, start: int, stop: int, length: int) -> Batch:
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.ndim > 0 else batch
    if isinstance(batch, Mapping):
        return type(batch)({key: _cut(value, start, stop, length) for key, value in batch.items()})  # type: ignore[call-arg]
    if _is_column(batch):
        if len(batch) != length:
            raise InputError(
                f"a list in a batch must hold one entry an example, got {len(batch)} for {length} examples; "
                "collate it into a tensor, or leave it out"
            )
        return batch[start:stop]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_cut(value, start, stop, length) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_cut(value, start, stop, length) for value in batch)
    if batch is None or isinstance(batch, str | int | float):
        return batch  # one for the whole batch
    raise InputError(
        f"a batch must be made of tensors, tuples, lists and dicts to be cut anew, got {type(batch).__name__}; "
        "give the engine the data set and collate_fn in place of a DataLoader, without workers"
    )


def join_batches(batches: Sequence[Batch]) -> Batch:
    """The examples of several batches of one form, in order, as one batch.

    Raises:
        InputError: If their forms or shapes differ.
    """
    first = batches[0]
    if len(batches) == 1:
        return first
    if isinstance(first, Tensor):
        if first.ndim == 0:
            return first
        shapes = sorted({tuple(batch.shape[1:]) for batch in batches})
        if len(shapes) > 1:
            raise InputError(
                f"batches must agree in all but their first axis to be cut anew, got {shapes[0]} and {shapes[1]}; pad every "
                "example to one length, or give the engine the data set and collate_fn in place of a DataLoader, without workers"
            )
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return type(first)({key: join_batches([batch[key] for batch in batches]) for key in first})  # type: ignore[call-arg]
    if _is_column(first):
        return [entry for batch in batches for entry in batch]
    if isinstance(first, list | tuple):
        parts = [join_batches(part) for part in zip(*batches, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first


def _is_column(batch: Batch) -> bool:
    return isinstance(batch, list) and bool(batch) and all(isinstance(entry, str | int | float) for entry in batch)


def split_batch(batch: Batch, micro_batch_size: int) -> Iterator[Batch]:
    """Micro-batches in order, each of ``micro_batch_size`` examples; the last may be shorter.

    Raises:
        InputError: If ``micro_batch_size`` is below 1.
    """
    check_int("micro_batch_size", micro_batch_size, at_least=1)
    length = batch_length(batch)
    for start in range(0, length, micro_batch_size):
        yield slice_batch(batch, start, min(start + micro_batch_size, length))


def split_sizes(batch: Batch, sizes: Sequence[int]) -> Iterator[Batch]:
    """Micro-batches in order, of these sizes."""
    start = 0
    for size in sizes:
        yield slice_batch(batch, start, start + size)
        start += size


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; copies overlap with computation where the source is pinned."""
    return map_tensors(lambda leaf: leaf.to(device, non_blocking=True), batch)
