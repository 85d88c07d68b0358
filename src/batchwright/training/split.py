"""How a rank's part of an optimizer step is split into micro-batches."""

import math


def micro_batch_sizes(
    share: int,
    *,
    largest_share: int,
    micro_batch_size: int | None,
    min_parts: int = 1,
    even: bool = False,
    keep_number: bool = False,
) -> list[int] | None:
    """Sizes as equal as can be, the larger ones first; none is above the ceiling.

    Args:
        share: Examples of this rank.
        largest_share: The largest share of any rank: all ranks reckon with it, so that all come to the same number.
        micro_batch_size: Most examples in one forward pass; None for no ceiling.
        min_parts: Fewest micro-batches.
        even: Whether their number must be even.
        keep_number: Whether a rank with fewer examples than micro-batches has empty ones; else it has fewer, but one at least.

    Returns:
        The sizes; None where there are not enough examples for ``min_parts`` or an even number.

    Example:
        >>> micro_batch_sizes(10, largest_share=10, micro_batch_size=4)
        [4, 3, 3]
    """
    wanted = max(math.ceil(largest_share / (micro_batch_size or largest_share)), min_parts)
    wanted += wanted % 2 if even else 0
    if wanted > max(largest_share, 1):
        return None
    number = wanted if keep_number else min(wanted, max(share, 1))
    base, larger = divmod(share, number)
    return [base + 1] * larger + [base] * (number - larger)


def share_of(num_examples: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and last-but-one place of a rank's part of a batch; the parts differ by one example at most, the larger ones first.

    Example:
        >>> [share_of(8, rank, 3) for rank in range(3)]
        [(0, 3), (3, 6), (6, 8)]
    """
    base, larger = divmod(num_examples, world_size)
    start = rank * base + min(rank, larger)
    return start, start + base + (rank < larger)
