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


def next_lr(
    tried: Sequence[Tried], start: float, *, strides: Sequence[float] = (1.0,), upward: bool = True
) -> float | None:
    """The next learning rate to try, or None once the best has a worse neighbour on both sides.

    All are ``start`` times a power of two, by steps of ``strides`` in its exponent: ``(2, 1)`` goes by factors of 4 first, for a start
    that may be far off, and then by factors of 2.

    Args:
        tried: What was tried.
        start: The first.
        strides: Falling; multiples of a half.
        upward: Which side is looked at first.

    Example:
        >>> next_lr([Tried(lr=0.1, score=(0, 5.0)), Tried(lr=0.2, score=(0, 9.0))], 0.1)
        0.05
    """
    scores = {_halves(each.lr, start): each.score for each in tried}
    if not scores:
        return start
    best = min(scores, key=lambda halves: (scores[halves], halves))
    for stride in (round(2 * each) for each in strides):
        for sign in (1, -1) if upward else (-1, 1):
            # A finer stride divides the gap to the neighbour; the first one looks where there is none.
            gaps = [sign * (halves - best) for halves in scores if sign * (halves - best) > 0]
            if (min(gaps) > stride) if gaps else stride == round(2 * strides[0]):
                return float(start * 2.0 ** ((best + sign * stride) / 2))
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


def _halves(lr: float, start: float) -> int:
    return round(2 * math.log2(lr / start))
