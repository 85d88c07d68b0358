"""What a data loader tells about its batches."""

from typing import Any

from batchwright.core.errors import InputError


def loader_batch_size(loader: Any) -> int:
    """Examples in a batch of a loader on one rank.

    Raises:
        InputError: If it does not tell.
    """
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(size, int):
        raise InputError(
            f"the data loader must tell its batch size, got {type(loader).__name__}; give micro_batch_size"
        )
    return size


def num_train_examples(loader: Any) -> int | None:
    """Examples in the data set of a loader; None where it has no length."""
    dataset: Any = getattr(loader, "dataset", None)
    return len(dataset) if hasattr(dataset, "__len__") else None
