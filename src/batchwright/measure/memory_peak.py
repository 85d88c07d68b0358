"""Peak memory of a step as a function of its micro-batch size.

The bytes alive after each operation of a step are an affine function of the micro-batch size, so two sizes give the function
of every operation and with it the peak at any size, also where another operation peaks than at the sizes measured.
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
    """Peak bytes as the largest of many affine functions of the micro-batch size, one for each operation of a step.

    Attributes:
        fixed: Bytes at no examples.
        per_example: Bytes that one more example adds.
        doubtful: Why the functions may be off, one sentence; empty where the measured sizes agree.
    """

    fixed: Array
    per_example: Array
    doubtful: str = ""

    @classmethod
    def line(cls, fixed: float, per_example: float) -> "PeakBytes":
        """One function for the whole step."""
        return cls(fixed=np.array([float(fixed)]), per_example=np.array([float(per_example)]))

    def at(self, size: int) -> int:
        """Peak at a micro-batch size."""
        return math.ceil(float((self.fixed + self.per_example * size).max()))

    def largest_within(self, budget: int) -> float:
        """Largest size within a budget, not rounded; ``inf`` where nothing grows, negative where the fixed part is too much."""
        grows = self.per_example > 0
        if (self.fixed[~grows] > budget).any():
            return -1.0
        return float(((budget - self.fixed[grows]) / self.per_example[grows]).min(initial=math.inf))

    def parts_at(self, size: int) -> tuple[int, float]:
        """Fixed bytes and bytes an example of the operation that peaks at ``size``."""
        index = int((self.fixed + self.per_example * size).argmax())
        return round(self.fixed[index]), float(self.per_example[index])


def fit_peak(timelines: Mapping[int, Sequence[int]], static_bytes: int) -> PeakBytes:
    """Affine functions of the micro-batch size from the timelines at some sizes.

    The outermost sizes are fitted, those between check. Where the steps did not run the same number of operations the peaks
    alone are fitted; a single size is joined to ``static_bytes`` at no examples.

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
    found = PeakBytes(fixed=rows[small] - per_example * small, per_example=per_example)
    miss = max(abs(found.at(size) / peaks[size] - 1) for size in sizes)
    if not same:
        return replace(
            found,
            doubtful="the operations of a step differ with the batch size, so the predicted memory is a rough one",
        )
    if miss > DOUBTFUL:
        return replace(
            found,
            doubtful=f"memory does not grow evenly with the batch size: the prediction misses a measured size by {miss:.0%}",
        )
    return found
