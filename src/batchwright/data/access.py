"""Examples out of a map-style data set as one batch, by the fastest way the data set offers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from batchwright.core.batches import Batch
from batchwright.core.errors import TaskError


def num_examples(dataset: Any, name: str = "train") -> int:
    """Number of examples ``N`` of a map-style data set.

    Raises:
        TaskError: If it has no length or is empty.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TaskError(
            f"{name} must be a map-style data set with __len__ and __getitem__, got {type(dataset).__name__}; "
            "wrap tensors in torch.utils.data.TensorDataset"
        )
    if len(dataset) == 0:
        raise TaskError(f"{name} must hold at least one example, got an empty data set")
    return len(dataset)


def fetch(dataset: Any, indices: Tensor) -> Batch:
    """The examples at ``indices`` (int64, shape ``(B,)``), collated along the first axis.

    A `TensorDataset` is indexed as a whole; a data set with ``__getitems__`` is asked once; others example by example.
    """
    if type(dataset) is TensorDataset:
        return tuple(tensor[indices.to(tensor.device)] for tensor in dataset.tensors)
    positions = indices.tolist()
    if callable(getattr(dataset, "__getitems__", None)):
        return default_collate(dataset.__getitems__(positions))
    return default_collate([dataset[position] for position in positions])


def batches_of(dataset: Any, batch_size: int) -> Iterator[Batch]:
    """The whole data set in its own order, in batches of ``batch_size``; the last may be shorter."""
    length = len(dataset)
    for start in range(0, length, batch_size):
        yield fetch(dataset, torch.arange(start, min(start + batch_size, length)))
