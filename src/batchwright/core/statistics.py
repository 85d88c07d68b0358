"""Averages and intervals on which every estimator of the library stands.

Sources: Kingma & Ba (2015), section 3 (debiasing of a moving average); Efron & Tibshirani (1993), chapters 11 and 13
(jackknife, percentile bootstrap); Fieller (1954) (interval of a ratio).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its confidence interval; an end may be infinite, and ``low <= value <= high``.

    Attributes:
        value: Point estimate.
        low: Lower end.
        high: Upper end.
        level: Nominal coverage.
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high and not math.isnan(self.value):
            raise InputError(
                f"an interval must hold its value, got {self.value:g} outside [{self.low:g}, {self.high:g}]"
            )

    def scaled(self, factor: float) -> "Interval":
        """The interval of ``factor`` times the quantity; ``factor`` is positive."""
        return Interval(value=self.value * factor, low=self.low * factor, high=self.high * factor, level=self.level)


def normal_quantile(level: float) -> float:
    """Half-width of a two-sided normal interval of coverage ``level``, in standard errors."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + 0.5 * level))


def student_quantile(level: float, dof: float) -> float:
    """Half-width of a two-sided Student interval of coverage ``level``, in standard errors; infinite without a degree."""
    if dof <= 0:
        return math.inf
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + 0.5 * level))


def mean_interval(values: Sequence[float] | Array, level: float = 0.95) -> Interval:
    """Student interval of the mean of independent values; infinitely wide for one value.

    Raises:
        InputError: If there is no value.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise InputError("values must hold at least one number, got none")
    mean = float(data.mean())
    if data.size == 1:
        return Interval(value=mean, low=-math.inf, high=math.inf, level=level)
    half = student_quantile(level, float(data.size - 1)) * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Interval(value=mean, low=mean - half, high=mean + half, level=level)


@dataclass(frozen=True, slots=True)
class DebiasedAverage:
    """Exponential moving average whose weights sum to one from the first value on.

    Attributes:
        decay: Weight kept from one value to the next.
        weighted_sum: Sum of ``(1 - decay) * decay**age * value``.
        weight: Sum of the weights so far; dividing by it removes the pull towards the initial zero.
    """

    decay: float
    weighted_sum: float = 0.0
    weight: float = 0.0

    def __post_init__(self) -> None:
        check_number("decay", self.decay, at_least=0.0, below=1.0)

    def update(self, value: float) -> "DebiasedAverage":
        """The average after one more value."""
        return DebiasedAverage(
            self.decay,
            self.decay * self.weighted_sum + (1 - self.decay) * value,
            self.decay * self.weight + (1 - self.decay),
        )

    @property
    def value(self) -> float:
        """The average; NaN before the first value."""
        return self.weighted_sum / self.weight if self.weight > 0 else math.nan


def jackknife_covariance(leave_one_out: Array) -> Array:
    """Covariance matrix of an estimate from its leave-one-out values.

    Args:
        leave_one_out: Shape ``(n, k)``: ``k`` estimates with each of ``n`` blocks left out in turn.

    Returns:
        Shape ``(k, k)``.

    Raises:
        InputError: If there are fewer than two blocks: one has no scatter, which is not the same as none.
    """
    if len(leave_one_out) < 2:
        raise InputError(f"leave_one_out must hold at least 2 blocks, got {len(leave_one_out)}; measure more batches")
    deviations = leave_one_out - leave_one_out.mean(axis=0)
    num_blocks = len(leave_one_out)
    return np.asarray((num_blocks - 1) / num_blocks * deviations.T @ deviations)


def bootstrap_interval(
    values: Array,
    statistic: Callable[[Array], float],
    *,
    rng: np.random.Generator,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of ``statistic`` over the rows of ``values``.

    Raises:
        InputError: If there are fewer than two rows.
    """
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        raise InputError(f"values must hold at least 2 rows to resample, got {len(data)}; repeat the measurement")
    found = np.sort([statistic(data[rng.integers(len(data), size=len(data))]) for _ in range(num_resamples)])
    value = float(statistic(data))
    low, high = (float(end) for end in np.quantile(found, [0.5 - 0.5 * level, 0.5 + 0.5 * level]))
    return Interval(value=value, low=min(low, value), high=max(high, value), level=level)


def ratio_interval(
    numerator: float, denominator: float, covariance: Array, *, dof: float, level: float = 0.95
) -> Interval:
    """Fieller interval of ``numerator / denominator`` for a positive numerator and a denominator that should be positive.

    The set of ratios ``r`` for which ``numerator - r * denominator`` is within its own error of zero. Where the denominator is
    not resolved from zero this set has no upper end; then ``high`` is infinite, and so is ``value`` when the
    denominator is not positive. NaN in an estimate gives NaN.

    Args:
        numerator: Estimate of the numerator.
        denominator: Estimate of the denominator.
        covariance: Their covariance matrix, shape ``(2, 2)``, numerator first.
        dof: Degrees of freedom of the covariance.
        level: Nominal coverage.
    """
    if math.isnan(numerator) or math.isnan(denominator):
        return Interval(value=math.nan, low=math.nan, high=math.nan, level=level)
    quantile = student_quantile(level, dof)
    value = numerator / denominator if denominator > 0 else math.inf
    if not math.isfinite(quantile):
        return Interval(value=value, low=min(0.0, value), high=math.inf, level=level)
    squared = quantile * quantile
    a = denominator**2 - squared * float(covariance[1, 1])
    b = numerator * denominator - squared * float(covariance[0, 1])
    c = numerator**2 - squared * float(covariance[0, 0])
    discriminant = b * b - a * c
    if a > 0 and denominator > 0:
        root = math.sqrt(max(discriminant, 0.0))
        low, high = (b - root) / a, (b + root) / a
        return Interval(value=value, low=min(max(low, 0.0), value), high=max(high, value), level=level)
    # The denominator may be zero, so nothing bounds the ratio from above. Where the numerator is resolved, the set is
    # what lies outside two roots of different sign, and the positive one bounds it from below.
    low = (b - math.sqrt(discriminant)) / a if a < 0 < c else 0.0
    return Interval(value=value, low=min(low, value), high=math.inf, level=level)
