"""A batch size in examples as a whole number of micro-batches, because a framework accumulates whole ones."""

import math
from dataclasses import dataclass

from batchwright.core.checks import check_int


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeBatch:
    """A batch that a framework can make.

    Attributes:
        num_micro_batches: On each rank.
        batch_size: Examples on all ranks together.
        note: What it was rounded from and why; empty where nothing was.
    """

    num_micro_batches: int
    batch_size: int
    note: str


def whole_batch(
    wanted: int,
    *,
    micro_batch_size: int,
    world_size: int = 1,
    at_least: int = 1,
    at_least_because: str = "",
    at_most: int | None = None,
    max_batch_size: float = math.inf,
) -> WholeBatch:
    """The nearest whole number of micro-batches to a wanted batch size.

    Args:
        wanted: In examples, on all ranks together.
        micro_batch_size: Examples in one forward pass of one rank.
        world_size: Ranks.
        at_least: Fewest micro-batches on a rank; a noise measurement on one rank needs two.
        at_least_because: Why, for the note.
        at_most: Most micro-batches on a rank, such as those of an epoch; None for any number.
        max_batch_size: Not past it by rounding up; one micro-batch on each rank is the least there is, all the same.

    Raises:
        InputError: If a size is below 1.

    Example:
        >>> whole_batch(100, micro_batch_size=32)
        WholeBatch(num_micro_batches=3, batch_size=96, note='100 examples are rounded to 3 x 32 = 96')
    """
    each = check_int("micro_batch_size", micro_batch_size, at_least=1) * check_int("world_size", world_size, at_least=1)
    check_int("wanted", wanted, at_least=1)
    count = math.floor(wanted / each + 0.5)
    if math.isfinite(max_batch_size):
        count = min(count, math.floor(max_batch_size / each))
    if at_most is not None:
        count = min(count, at_most)
    count = max(count, at_least)
    size = count * each
    if size == wanted:
        return WholeBatch(num_micro_batches=count, batch_size=size, note="")
    ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
    note = f"{wanted} examples are rounded to {count} x {micro_batch_size}{ranks} = {size}"
    if count == at_most and wanted > size:
        note += ", all that an epoch holds"
    if count == at_least and wanted < size and at_least_because:
        note += f": {at_least_because}"
    return WholeBatch(num_micro_batches=count, batch_size=size, note=note)
