"""Peak memory of a step as a function of its micro-batch size.

The bytes alive after each operation of a step are an affine function of the micro-batch size, so two sizes give the function
of every operation and with it the peak at any size, also where another operation peaks than at the sizes measured. A loss that
compares all pairs of examples adds a square, which a third size gives.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from batchwright.core.statistics import Array

# A prediction from the smallest sizes that misses the next one by more than this is called doubtful.
DOUBTFUL = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakBytes:
    """Peak bytes as the largest of many functions ``fixed + per_example B + per_pair B^2``, one for each operation of a step.

    Attributes:
        fixed: Bytes at no examples.
        per_example: Bytes that one more example adds.
        per_pair: Bytes that each pair of examples adds; not negative.
        doubtful: Why the functions may be off, one sentence; empty where the measured sizes agree.
    """

    fixed: Array
    per_example: Array
    per_pair: Array
    doubtful: str = ""

    @classmethod
    def line(cls, fixed: float, per_example: float) -> "PeakBytes":
        """One function for the whole step, without pairs."""
        return cls(fixed=np.array([float(fixed)]), per_example=np.array([float(per_example)]), per_pair=np.zeros(1))

    def at(self, size: int) -> int:
        """Peak at a micro-batch size."""
        return math.ceil(float(self._all_at(size).max()))

    def largest_within(self, budget: int) -> float:
        """Largest size within a budget, not rounded; ``inf`` where nothing grows, negative where the fixed part is too much."""
        square = self.per_pair > 0
        grows = ~square & (self.per_example > 0)
        if (self.fixed[~grows] > budget).any():
            return -1.0
        largest = float(((budget - self.fixed[grows]) / self.per_example[grows]).min(initial=math.inf))
        if square.any():
            half = self.per_example[square] / (2 * self.per_pair[square])
            roots = np.sqrt(half**2 + (budget - self.fixed[square]) / self.per_pair[square]) - half
            largest = min(largest, float(roots.min()))
        return largest

    def parts_at(self, size: int) -> tuple[int, float]:
        """Fixed bytes and bytes an example, pairs included, of the operation that peaks at ``size``."""
        index = int(self._all_at(size).argmax())
        return round(self.fixed[index]), float(self.per_example[index] + self.per_pair[index] * size)

    def _all_at(self, size: int) -> Array:
        return np.asarray(self.fixed + self.per_example * size + self.per_pair * float(size) ** 2)


def fit_peak(timelines: Mapping[int, Sequence[int]], static_bytes: int) -> PeakBytes:
    """Functions of the micro-batch size from the timelines at some sizes.

    The outermost sizes are fitted, one between them checks. Where that shows a square in some operation, all three are fitted; two
    sizes alone show one where a line would begin below the static bytes. Where the steps did not run the same number of
    operations the peaks alone are fitted; a single size is joined to ``static_bytes`` at no examples.

    Args:
        timelines: Bytes alive after each operation of a step, by micro-batch size.
        static_bytes: Parameters, gradients and optimizer state.
    """
    sizes = sorted(timelines)
    small, large = sizes[0], sizes[-1]
    peaks = {size: max(timelines[size]) for size in sizes}
    if small == large:
        slope = (peaks[small] - static_bytes) / small
        return PeakBytes.line(static_bytes, slope)
    same = len({len(timeline) for timeline in timelines.values()}) == 1
    rows = {size: np.array(timelines[size] if same else [peaks[size]], dtype=np.float64) for size in sizes}
    per_example = (rows[large] - rows[small]) / (large - small)
    found = PeakBytes(
        fixed=rows[small] - per_example * small, per_example=per_example, per_pair=np.zeros_like(per_example)
    )
    if not same:
        return replace(
            found,
            doubtful="the operations of a step differ with the batch size, so the predicted memory is a rough one",
        )
    if len(sizes) == 2:
        below = (found.fixed < static_bytes).any()
        return replace(found, doubtful="memory seems to grow faster than the batch size") if below else found
    return _with_pairs(found, rows, static_bytes)


def uneven(miss: float) -> str:
    """What a reader should know of a prediction that misses a measured size by more than a little."""
    return f"memory does not grow evenly with the batch size: the prediction misses a measured size by {miss:.0%}"


def _with_pairs(found: PeakBytes, rows: Mapping[int, Array], static_bytes: int) -> PeakBytes:
    """The functions with a square where the size in the middle asks for one that begins at the static bytes or above."""
    small, middle, large = sorted(rows)
    lines = found.fixed + found.per_example * middle
    # What a line is too high by in the middle is per_pair (middle - small) (large - middle).
    per_pair = (lines - rows[middle]) / ((middle - small) * (large - middle))
    per_example = found.per_example - per_pair * (small + large)
    fixed = found.fixed + per_pair * small * large
    square = (per_pair > 0) & (fixed >= 0.99 * static_bytes)
    miss = float(np.abs(np.where(square, 0.0, lines - rows[middle]) / rows[middle]).max())
    return PeakBytes(
        fixed=np.where(square, fixed, found.fixed),
        per_example=np.where(square, per_example, found.per_example),
        per_pair=np.where(square, per_pair, 0.0),
        doubtful=uneven(miss) if miss > DOUBTFUL else "",
    )
