"""Time of one optimizer step against its batch size: ``a + b B`` where the repeats bear it, else linear between the measured sizes.

The fit minimises Huber's loss of the relative errors of the medians, by iteratively reweighted least squares with ``a, b >= 0``.
Its intervals are closed forms, because a bootstrap takes as long as tens of steps of a small model.
Sources: Huber (1981), sections 7.6 (covariance of the estimates) and 7.8 (the reweighting).
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.statistics import Array, Interval, normal_quantile, student_quantile

# A fit is refused when it misses a median by more than this, all repeats of that size, and more than the scatter explains.
MISFIT = 0.05
MISFIT_CHANCE = 0.01
# The knee aims at giving away this part of the best throughput, so that with the error of a prediction it stays under 5 %; a flat
# step time may rise by that part.
KNEE_LOSS = 0.02
FLAT_RISE = 0.1
HUBER = 1.5
# A normal sample's median absolute deviation times this is its standard deviation.
MAD_TO_STD = 1.4826
# The deviation knows as much about the spread as the standard deviation of this part of the sample would.
MAD_EFFICIENCY = 0.37
# No machine repeats itself better than this; it keeps weights finite for repeats that are all equal.
MIN_SPREAD = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Measured time of one optimizer step at one batch size.

    Attributes:
        batch_size: Examples in the step.
        step_time_s: Seconds, median of the repeats with its interval.
        num_repeats: Timed steps, warm-up left out.
        loading_s: Seconds an example of fetching the batch, a part of the step; 0 where it was not timed apart.
        region: ``loading`` where fetching takes half of the step or more, else ``launch`` where less than half of the step grows
            with the batch, else ``compute``; empty where it is not known.
    """

    batch_size: int
    step_time_s: Interval
    num_repeats: int
    loading_s: float = 0.0
    region: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimeCurve:
    """Step time as a function of the batch size.

    Attributes:
        points: What was measured, in rising order of the batch size.
        overhead_s: The constant part ``a`` of the affine fit, in seconds, not negative.
        per_example_s: The part ``b`` that each example adds, in seconds, not negative.
        fit: ``affine``, or ``piecewise`` where the repeats contradict the affine fit by more than 5 %; ``overhead_s`` and
            ``per_example_s`` are then the best line's, a rough description.
        knots: Batch sizes between which a piecewise prediction is linear; empty for an affine one.
        covariance: Of ``a`` and ``b`` where neither is held at zero: variance of ``a``, covariance, variance of ``b``.
        spread: Standard deviation of a single repeat relative to its median, robust, pooled over the sizes.
        knee: Smallest batch size whose predicted throughput is within 2 % of the best one, at a measured size or up to the size
            that the fit was asked to look ahead to.
        flat_until: Largest batch size, up to the largest measured, whose step takes at most 10 % longer than the smallest
            measured one's, or no longer than the upper end of its interval.
    """

    points: tuple[StepTime, ...]
    overhead_s: Interval
    per_example_s: Interval
    fit: str
    knots: tuple[int, ...]
    covariance: tuple[float, float, float]
    spread: float
    knee: int
    flat_until: int

    def step_time_s(self, batch_size: float | int) -> Interval:
        """Predicted seconds of one step, with the interval of the prediction; also outside the measured sizes.

        Raises:
            InputError: If ``batch_size`` is not positive.
        """
        check_number("batch_size", batch_size, above=0.0)
        level = self.overhead_s.level
        if self.fit == "affine":
            value = self.overhead_s.value + self.per_example_s.value * batch_size
            variance, covariance, slope_variance = self.covariance
            squared = variance + 2 * covariance * batch_size + slope_variance * batch_size**2
            half = normal_quantile(level) * math.sqrt(max(squared, 0.0))
            return Interval(value=value, low=max(value - half, 0.0), high=value + half, level=level)
        measured = [point.step_time_s for point in self.points]
        medians = np.array([time.value for time in measured])
        value = float(_interpolated(np.array([float(batch_size)]), np.array(self.knots, dtype=np.float64), medians)[0])
        low = np.interp(batch_size, self.knots, np.array([time.low for time in measured]) / medians)
        high = np.interp(batch_size, self.knots, np.array([time.high for time in measured]) / medians)
        return Interval(value=value, low=value * min(float(low), 1.0), high=value * max(float(high), 1.0), level=level)


def fit_step_time(
    repeats: Mapping[int, Sequence[float]], *, level: float = 0.95, look_ahead_to: int | None = None
) -> StepTimeCurve:
    """Fit the step time to repeated measurements.

    A median's error comes from its size's own spread, drawn towards the spread of all sizes, so that sizes with few repeats borrow
    from the others. The line's errors follow from those by its weights. Both are widened by Student's quantile, the line's also
    by its misfit. An interval of a part that is held at zero is that of the free fit, cut at zero.

    Args:
        repeats: Seconds of each repeat, by batch size; at least two sizes.
        level: Nominal coverage of all intervals.
        look_ahead_to: Largest batch size for the knee; the largest measured where left out.

    Returns:
        The fitted curve.

    Raises:
        InputError: If there are fewer than two sizes, a size has no repeats, none has two, or a time is not positive and finite.

    Example:
        >>> curve = fit_step_time({1: [2.0, 2.0], 4: [5.0, 5.0], 16: [17.0, 17.0]})
        >>> round(curve.overhead_s.value, 3), round(curve.per_example_s.value, 3), curve.knee
        (1.0, 1.0, 12)
    """
    check_number("level", level, above=0.0, below=1.0)
    sizes, times = _checked(repeats)
    counts = np.array([len(row) for row in times], dtype=np.float64)
    medians = np.array([statistics.median(row) for row in times])
    spreads, spread = _spreads(times)
    errors = np.array(spreads) * np.sqrt(math.pi / (math.pi + 2 * (counts - 1)))
    line, free, covariance = _fit_line(sizes, medians, counts, spread, errors)

    quantile = student_quantile(level, max(MAD_EFFICIENCY * float(counts.sum() - len(counts)), 1.0))
    fitted = line[0] + line[1] * sizes
    misses = medians / fitted - 1
    # On a loaded machine most of a size's repeats may be slow; a single one near the line still speaks for it.
    lows, highs = (np.array([end(row) for row in times]) for end in (min, max))
    denied = (np.abs(misses) > MISFIT) & ((fitted < lows * (1 - spread)) | (fitted > highs * (1 + spread)))
    # Two numbers were fitted, so the misses have that many fewer degrees of freedom.
    freedom = max(len(sizes) - 2, 1)
    misfit = float(((misses / errors) ** 2).sum())
    widening = quantile / normal_quantile(level)
    piecewise = bool(denied.any() and misfit > _chi2_quantile(freedom) * widening**2)
    line_widening = widening * max(1.0, math.sqrt(misfit / freedom)) if len(sizes) > 2 else widening
    covariance = covariance * line_widening**2

    ahead = _candidates(int(sizes[0]), max(look_ahead_to or 0, int(sizes[-1])))
    at_ahead = _interpolated(ahead, sizes, medians) if piecewise else line[0] + line[1] * ahead
    at_sizes = medians if piecewise else fitted
    # Sizes that were only asked about may hold the best one, those between measured ones not.
    best = max(float((sizes / at_sizes).max()), float(ahead[-1] / at_ahead[-1]))
    points = tuple(
        StepTime(
            batch_size=int(size),
            step_time_s=Interval(
                value=median,
                low=median * math.exp(-quantile * error),
                high=median * math.exp(quantile * error),
                level=level,
            ),
            num_repeats=int(count),
        )
        for size, median, error, count in zip(sizes, medians.tolist(), errors.tolist(), counts, strict=True)
    )
    noise = points[0].step_time_s.high - points[0].step_time_s.value
    measured = ahead <= sizes[-1]
    return StepTimeCurve(
        points=points,
        overhead_s=_interval(line[0], free[0], covariance[0, 0], level),
        per_example_s=_interval(line[1], free[1], covariance[1, 1], level),
        fit="piecewise" if piecewise else "affine",
        knots=tuple(int(size) for size in sizes) if piecewise else (),
        covariance=(float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])),
        spread=spread,
        knee=_knee(ahead, at_ahead, best),
        flat_until=_flat_until(
            ahead[measured], at_ahead[measured], max(FLAT_RISE * at_sizes[0], noise), int(sizes[-1])
        ),
    )


def robust_spread(times: Iterable[Sequence[float]]) -> float:
    """Standard deviation of a single repeat relative to its median, pooled over sizes, from median absolute deviations."""
    told = [deviation for row in times if len(row) > 1 for deviation in _deviations(row)]
    return max(MAD_TO_STD * statistics.median(told), MIN_SPREAD)


def _checked(repeats: Mapping[int, Sequence[float]]) -> tuple[Array, list[list[float]]]:
    if len(repeats) < 2:
        raise InputError(f"repeats must hold at least 2 batch sizes, got {sorted(repeats)}; time another size")
    sizes = sorted(check_int("batch size", size, at_least=1) for size in repeats)
    times = [[float(seconds) for seconds in repeats[size]] for size in sizes]
    if max(len(row) for row in times) < 2 or min(len(row) for row in times) < 1:
        counts = [len(row) for row in times]
        raise InputError(f"repeats must hold a time for each size and 2 for one, got {counts} times; time more steps")
    for size, row in zip(sizes, times, strict=True):
        if not all(math.isfinite(seconds) and seconds > 0 for seconds in row):
            raise InputError(f"every time must be positive and finite, got {row} at batch size {size}")
    return np.array(sizes, dtype=np.float64), times


def _spreads(times: Sequence[Sequence[float]]) -> tuple[list[float], float]:
    """Spread of a repeat at each size and the pooled one, on a log scale."""
    pooled = robust_spread(times)
    spreads = []
    for row in times:
        # A size's own spread is drawn towards the pooled one as if that came from ten further repeats.
        own = MAD_TO_STD * statistics.median(_deviations(row)) if len(row) > 1 else 0.0
        weight = len(row) / (len(row) + 10) if len(row) > 1 else 0.0
        spreads.append(math.sqrt(weight * own**2 + (1 - weight) * pooled**2))
    return spreads, pooled


def _deviations(row: Sequence[float]) -> list[float]:
    """Sizes of the deviations from a sample's own median, such that their median is that of the deviations from the true one."""
    # Plain Python: for a handful of numbers an array costs ten times as much, and this runs between timed steps.
    middle = math.log(statistics.median(row))
    deviations = sorted(abs(math.log(seconds) - middle) for seconds in row)
    if len(row) % 2:  # the median itself is in an odd sample, and its deviation of zero says nothing
        return deviations[1:]
    factor = math.sqrt(len(row) / (len(row) - 1))
    return [deviation * factor for deviation in deviations]


def _fit_line(sizes: Array, medians: Array, counts: Array, spread: float, errors: Array) -> tuple[Array, Array, Array]:
    """``a`` and ``b`` that are not negative, the same free of that bound, and the covariance of the free ones."""
    weights = counts / medians**2
    line, free = _least_squares(sizes, medians, weights)
    for _ in range(5):
        fitted = line[0] + line[1] * sizes
        # The standard error of a median is about 1.25 spread / sqrt(count).
        standardised = np.abs(medians / fitted - 1) * np.sqrt(counts) / (1.25 * spread)
        # Where no size fits to the noise, the usual miss takes the noise's place, or every weight would shrink alike.
        scale = max(1.0, statistics.median(standardised.tolist()))
        weights = counts / fitted**2 * np.minimum(1.0, HUBER * scale / np.maximum(standardised, 1e-12))
        line, free = _least_squares(sizes, medians, weights)
    # Both numbers are linear in the medians, whose errors are independent.
    total = weights.sum()
    mean_size = (weights * sizes).sum() / total
    centred = weights * (sizes - mean_size)
    slope = centred / (centred * sizes).sum()
    by_median = np.stack([weights / total - mean_size * slope, slope]) * (medians * errors)
    return line, free, by_median @ by_median.T


def _least_squares(sizes: Array, medians: Array, weights: Array) -> tuple[Array, Array]:
    total = weights.sum()
    mean_size, mean_time = (weights * sizes).sum() / total, (weights * medians).sum() / total
    centred = weights * (sizes - mean_size)
    slope = (centred * medians).sum() / (centred * sizes).sum()
    free = np.array([mean_time - slope * mean_size, slope])
    # On a border of the quarter plane the other number is fitted alone.
    if free[0] < 0:
        return np.array([0.0, (weights * sizes * medians).sum() / (weights * sizes**2).sum()]), free
    if free[1] < 0:
        return np.array([mean_time, 0.0]), free
    return free, free


def _interpolated(at: Array, sizes: Array, times: Array) -> Array:
    """Linear between the sizes; outside, the slope of the outermost pair, which never makes a larger batch faster."""
    inside = np.interp(at, sizes, times)
    first = max((times[1] - times[0]) / (sizes[1] - sizes[0]), 0.0)
    last = max((times[-1] - times[-2]) / (sizes[-1] - sizes[-2]), 0.0)
    # No step is faster than its share of the smallest measured one.
    below = np.maximum(times[0] - first * (sizes[0] - at), times[0] * at / sizes[0])
    above = times[-1] + last * (at - sizes[-1])
    return np.where(at < sizes[0], below, np.where(at > sizes[-1], above, inside))


def _interval(value: float, free: float, variance: float, level: float) -> Interval:
    half = normal_quantile(level) * math.sqrt(variance)
    return Interval(
        value=float(value),
        low=max(min(float(value), float(free) - half), 0.0),
        high=max(float(value), float(free) + half),
        level=level,
    )


def _candidates(smallest: int, largest: int) -> Array:
    """All batch sizes up to 1024, beyond that in steps of under one per cent."""
    sizes = np.arange(smallest, min(largest, 1024) + 1, dtype=np.float64)
    if largest <= 1024:
        return sizes
    start = max(smallest, 1025)
    return np.append(sizes, np.round(np.geomspace(start, largest, 2 + int(110 * math.log(largest / start)))))


def _knee(grid: Array, predicted: Array, best: float) -> int:
    return int(grid[(grid / predicted >= (1 - KNEE_LOSS) * best * (1 - 1e-9)).argmax()])


def _flat_until(grid: Array, predicted: Array, rise: float, largest: int) -> int:
    above = predicted > predicted[0] + rise
    return int(grid[above.argmax() - 1] if above.any() else largest)


def _chi2_quantile(dof: int) -> float:
    from scipy.special import chdtri

    return float(chdtri(dof, MISFIT_CHANCE))
