"""The largest batch size that does no harm, out of losses of branches that trained on equally many examples.

Source: Merrill et al. (2025), arXiv:2505.23971 (branched training: the largest batch size whose loss is within a tolerance).
Deviation: here the tolerance is tested over repeats, so that the answer has an interval.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval, student_quantile


def largest_harmless(batch_sizes: Sequence[int], margins: Float[np.ndarray, "S K"], *, level: float = 0.95) -> Interval:
    """Where the harm of a larger batch first passes the tolerance, with the sizes at which it may pass it.

    The interval inverts Student's test: it reaches from the first size whose harm may be the tolerance to the last one, so it holds
    the crossing with probability ``level`` whether or not the harm rises from size to size. Between two sizes tried the harm is taken
    as linear in the batch size.

    Args:
        batch_sizes: The ``K`` sizes tried, rising. The first is the yardstick, and the answer is never below it: a harm that it has
            itself, against a smaller batch, is not seen.
        margins: Harm less the tolerance, one row a repeat, one column a size: loss at the size less the loss at the first size in the
            same repeat, less the tolerance; ``inf`` where a branch diverged. The first column is below 0.
        level: Nominal coverage.

    Returns:
        The size in examples. ``value`` and ``high`` are ``inf`` where no size tried does, or surely does, harm; ``low`` is at most the
        largest size tried.

    Raises:
        InputError: If there are fewer than two sizes or repeats, or the shapes disagree.

    Example:
        >>> largest_harmless([8, 16, 32], np.array([[-1.0, -0.5, 0.5], [-1.0, -0.5, 0.5]])).value
        24.0
    """
    check_number("level", level, above=0.0, below=1.0)
    sizes = np.asarray(batch_sizes, dtype=np.float64)
    if margins.ndim != 2 or margins.shape[0] < 2 or margins.shape[1] != len(sizes) or len(sizes) < 2:
        raise InputError(
            f"margins must hold at least 2 repeats of at least 2 sizes, got shape {margins.shape} for {len(sizes)} sizes"
        )
    grid, fine = _between(sizes, margins)
    repeats = len(margins)
    mean = fine.mean(axis=0)
    with np.errstate(invalid="ignore"):
        half = student_quantile(level, repeats - 1) * fine.std(axis=0, ddof=1) / math.sqrt(repeats)
    # A size at which a repeat diverged has no mean loss: its harm passes any tolerance.
    diverged = ~np.isfinite(mean)
    above = np.where(diverged, np.inf, mean + half)
    below = np.where(diverged, np.inf, mean - half)
    value, low = (_first_above(grid, curve, sizes) for curve in (mean, above))
    return Interval(
        value=value,
        low=min(low, value, float(sizes[-1])),
        high=max(_last_not_above(grid, below), value),
        level=level,
    )


def _between(
    sizes: Float[np.ndarray, " K"], margins: Float[np.ndarray, "S K"], num_points: int = 64
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, "S G"]]:
    """Each repeat's margins on a fine grid of sizes, linear between those tried; infinite just before a diverged one."""
    grid = np.unique(np.concatenate([np.linspace(a, b, num_points) for a, b in pairwise(sizes)]))
    left, right = np.searchsorted(sizes, grid, side="right") - 1, np.searchsorted(sizes, grid, side="left")
    finite = np.isfinite(margins)
    filled = np.where(finite, margins, 0.0)
    fine = np.array([np.interp(grid, sizes, row) for row in filled])
    # What lies between a size that converged and one that did not was not tried: only the tried one is known to diverge.
    fine = np.where(finite[:, right], fine, filled[:, left])
    return grid, np.where(finite[:, left], fine, np.inf)


def _first_above(
    grid: Float[np.ndarray, " G"], curve: Float[np.ndarray, " G"], sizes: Float[np.ndarray, " K"]
) -> float:
    """Where the curve first passes 0; infinite where it does not, and the size tried before where it diverges there."""
    passed = np.flatnonzero(curve > 0)
    if not len(passed):
        return math.inf
    found = _crossing(grid, curve, int(passed[0]))
    return found if math.isfinite(curve[passed[0]]) else float(sizes[sizes < found].max(initial=sizes[0]))


def _last_not_above(grid: Float[np.ndarray, " G"], curve: Float[np.ndarray, " G"]) -> float:
    """Where the curve passes 0 for good; infinite where it ends at or below 0."""
    if not curve[-1] > 0:
        return math.inf
    still = np.flatnonzero(~(curve > 0))
    return _crossing(grid, curve, int(still[-1]) + 1 if len(still) else 0)


def _crossing(grid: Float[np.ndarray, " G"], curve: Float[np.ndarray, " G"], index: int) -> float:
    if index == 0 or not math.isfinite(curve[index]):
        return float(grid[index])
    left, right = float(curve[index - 1]), float(curve[index])
    return float(grid[index - 1] + (grid[index] - grid[index - 1]) * (0 - left) / (right - left))
