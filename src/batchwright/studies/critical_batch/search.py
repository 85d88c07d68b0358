"""A search for the best learning rate that asks for one run after the other, so that each run can be a cell of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Better scores are smaller. First whether the target was reached (0), not reached (1) or the loss was lost (2); then how soon or near.
Score = tuple[int, float]
LOST: Score = (2, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """A learning rate and how it did."""

    lr: float
    score: Score


def next_lr(tried: Sequence[Tried], start: float, *, coarse: bool, upward: bool = True) -> float | None:
    """The next learning rate to try, or None once the best has a worse neighbour on both sides.

    All are ``start`` times a power of two. A coarse search goes by factors of 4 first, for a start that may be far off; every
    search ends with factors of 2.

    Args:
        tried: What was tried.
        start: The first.
        coarse: Whether to begin with factors of 4.
        upward: Which side is looked at first.

    Example:
        >>> next_lr([], 0.1, coarse=False)
        0.1
    """
    scores = {_power(each.lr, start): each.score for each in tried}
    if not scores:
        return start
    best = min(scores, key=lambda power: (scores[power], power))
    for stride in (2, 1) if coarse else (1,):
        for power in (best + stride, best - stride) if upward else (best - stride, best + stride):
            if power not in scores:
                return start * 2.0**power
    return None


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """The best; the smaller learning rate of two alike."""
    return min(tried, key=lambda each: (each.score, each.lr), default=None)


def at_edge(tried: Sequence[Tried]) -> bool:
    """Whether the best learning rate has nothing beside it on one side: a better one may lie beyond."""
    best = best_of(tried)
    if best is None:
        return True
    lrs = [each.lr for each in tried]
    return not min(lrs) < best.lr < max(lrs)


def _power(lr: float, start: float) -> int:
    return round(math.log2(lr / start))
