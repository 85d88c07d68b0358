"""Verdicts, computed from raw results alone: what passes, what was measured, and whether it was still moving."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batchwright.core.statistics import Interval, mean_interval, student_quantile


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """Least-squares slope of the last measurements.

    Attributes:
        slope: Change a thousand steps, as a share of the mean of the measurements.
        standard_error: Of the slope, from the scatter about the line; infinite for fewer than three measurements.
        low: Lower end of the 95 % interval of the slope.
        high: Upper end.
    """

    slope: float
    standard_error: float
    low: float
    high: float

    def toward(self, value: float, low: float, high: float) -> bool:
        """Whether the slope is resolved from zero and points from ``value`` into ``[low, high]``."""
        return (value < low and self.low > 0) or (value > high and self.high < 0)

    @property
    def words(self) -> str:
        """The slope in a sentence."""
        if not math.isfinite(self.standard_error):
            return "too few measurements for a trend"
        return f"trend {self.slope:+.1%} in 1,000 steps ({self.low:+.1%} to {self.high:+.1%})"


def trend(steps: Sequence[float], values: Sequence[float]) -> Trend:
    """Slope of ``values`` over ``steps``; NaN values are left out."""
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    known = np.isfinite(y)
    x, y = x[known] / 1000, y[known]
    if len(x) < 3 or np.ptp(x) == 0:
        return Trend(slope=math.nan, standard_error=math.inf, low=-math.inf, high=math.inf)
    centred = x - x.mean()
    scale = abs(float(y.mean())) or 1.0
    slope = float((centred * y).sum() / (centred**2).sum())
    rest = y - y.mean() - slope * centred
    error = math.sqrt(float((rest**2).sum()) / (len(x) - 2) / float((centred**2).sum()))
    half = student_quantile(0.95, len(x) - 2) * error
    return Trend(
        slope=slope / scale, standard_error=error / scale, low=(slope - half) / scale, high=(slope + half) / scale
    )


def judge(
    values: Sequence[float], low: float, high: float, *, trend: Trend | None = None, finished: bool = True
) -> tuple[Interval | None, str]:
    """Mean of ``values`` (one a seed) with its interval, and the verdict on ``low <= mean <= high``.

    A single value, as of a deterministic computation, is judged by itself. Values that are not finite, as of a run that
    diverged, are judged by themselves too: an infinite ratio is above any bound.

    Args:
        values: One a seed.
        low: Lower end of what passes.
        high: Upper end of what passes.
        trend: Of the last measurements; where the mean misses but the trend points to what passes, it is not there yet.
        finished: Whether every run did all its planned steps.
    """
    if not values:
        return None, "not there yet"
    data = np.asarray(values, dtype=np.float64)
    if not np.isfinite(data).all():
        mean = float(data.mean())
        found = Interval(value=mean, low=float(data.min()), high=mean) if not math.isnan(mean) else None
        inside = bool(((data >= low) & (data <= high)).all())
        return found, "holds" if inside else "does not hold"
    found = mean_interval(data)
    single = len(data) == 1
    if single and not finished:  # one seed of several says nothing of their scatter
        return found, "not there yet"
    if low <= found.value <= high:
        certain = single or (low <= found.low and found.high <= high)
        return found, "holds" if certain else "not resolved"
    if not finished or (trend is not None and trend.toward(found.value, low, high)):
        return found, "not there yet"
    outside = single or found.high < low or found.low > high
    return found, "does not hold" if outside else "not resolved"


def judge_each(values: Sequence[float], low: float, high: float) -> tuple[Interval | None, str]:
    """The verdict on a claim about every run: it holds if each value passes, however they scatter."""
    if not values:
        return None, "not there yet"
    data = np.asarray(values, dtype=np.float64)
    passed = bool(((data >= low) & (data <= high)).all())
    if np.isnan(data).any():
        return None, "does not hold"
    mean = float(data.mean())
    ends = (float(data.min()), float(data.max()))
    # The mean of near-equal numbers may fall outside of them by a rounding.
    found = Interval(value=mean, low=min(ends[0], mean), high=max(ends[1], mean), level=1.0)
    return found, "holds" if passed else "does not hold"


def judge_interval(found: Interval, low: float, high: float) -> str:
    """The verdict on ``low <= value <= high`` for a value with an interval of its own."""
    if low <= found.low and found.high <= high:
        return "holds"
    return "does not hold" if found.high < low or found.low > high else "not resolved"
