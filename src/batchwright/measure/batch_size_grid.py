"""Batch sizes at which a step is worth timing."""

from collections.abc import Sequence

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.tasks.task import Task


def batch_size_grid(batch_size: int, limit: int, num_examples: int, micro_batch_size: int | None = None) -> list[int]:
    """``batch_size`` with a 16th of it below, at least 2, and above it sizes by factors of 4 up to ``limit``, itself the last.

    Sizes above ``micro_batch_size`` are whole numbers of micro-batches. A single example is left out because batch norm refuses
    it. There are always at least two sizes.
    """
    sizes = {batch_size}
    if batch_size > 2:
        sizes.add(max(2, batch_size // 16))
    above = 4 * batch_size
    while above < 4 * limit:
        size = min(above, limit)
        part = size if micro_batch_size is None else min(micro_batch_size, size)
        if size // part * part >= 2 * max(sizes):
            sizes.add(size // part * part)
        above *= 4
    if micro_batch_size is not None and batch_size < micro_batch_size <= limit:
        sizes.add(micro_batch_size)
    kept = sorted(size for size in sizes if size <= limit or size == batch_size)
    if len(kept) == 1:
        kept = sorted({batch_size, batch_size // 2 if batch_size > 1 else min(2, num_examples)})
    return kept


def with_own_size(task: Task, batch_sizes: Sequence[int]) -> list[int]:
    """Given batch sizes in rising order, with the task's own among them.

    Raises:
        InputError: If a size is above the number of training examples, or there is none beside the task's own.
    """
    sizes = {check_int("batch size", size, at_least=1) for size in batch_sizes}
    if max(sizes, default=0) > task.num_train:
        raise InputError(
            f"batch_sizes must be at most the number of training examples, got {max(sizes)} for {task.num_train}"
        )
    sizes.add(task.batch_size)
    if len(sizes) < 2:
        raise InputError(
            f"batch_sizes must hold a size beside the task's own, got {list(batch_sizes)}; add a larger or smaller one"
        )
    return sorted(sizes)
