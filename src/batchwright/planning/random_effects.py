"""A quantity that differs between tasks, from estimates with errors of their own: its mean, its scatter, and the next task's.

Sources: Paule & Mandel (1982), J. Res. NBS 87, 377 (the scatter); Higgins, Thompson & Spiegelhalter (2009), section 3.4 (prediction).
Deviation: Student's quantile has ``k - 1`` degrees of freedom, which is exact where the estimates have no errors of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchwright.core.errors import InputError
from batchwright.core.statistics import student_quantile


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomEffects:
    """Distribution of a quantity over tasks.

    Attributes:
        mean: Over tasks.
        variance: Of that mean, as an estimate.
        scatter: Standard deviation of the true values between tasks, errors of measurement taken out; 0 where these explain all.
        count: Tasks.
    """

    mean: float
    variance: float
    scatter: float
    count: int

    def mean_half(self, level: float) -> float:
        """Half-width of the interval of the mean."""
        return student_quantile(level, self.count - 1) * math.sqrt(self.variance)

    def predictive_half(self, level: float) -> float:
        """Half-width of the interval of one more task's true value: its own scatter and the error of the mean."""
        return student_quantile(level, self.count - 1) * math.sqrt(self.scatter**2 + self.variance)


def random_effects(values: Sequence[float], variances: Sequence[float]) -> RandomEffects:
    """Fit by the method of Paule and Mandel: the scatter at which the weighted squares about the mean are what they should be.

    Args:
        values: One estimate a task.
        variances: Squared standard error of each, at least 0.

    Raises:
        InputError: If there is no value, or the lengths disagree.

    Example:
        >>> random_effects([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]).scatter
        1.0
    """
    if not values or len(values) != len(variances):
        raise InputError(
            f"values and variances must be equally many, at least 1, got {len(values)} and {len(variances)}"
        )
    if len(values) == 1:
        return RandomEffects(mean=values[0], variance=variances[0], scatter=0.0, count=1)
    high = math.fsum((value - values[0]) ** 2 for value in values)
    # With errors of 0 the answer is the plain variance; the floor keeps weights finite on the way there.
    low, floor = 0.0, 1e-12 * high + 1e-300
    if _excess(values, variances, floor) > 0:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if _excess(values, variances, max(middle, floor)) > 0 else (low, middle)
        scatter_sq = round((low + high) / 2, 14)
    else:
        scatter_sq = 0.0
    mean, variance = _weighted(values, variances, max(scatter_sq, floor))
    return RandomEffects(mean=mean, variance=variance, scatter=math.sqrt(scatter_sq), count=len(values))


def _weighted(values: Sequence[float], variances: Sequence[float], scatter_sq: float) -> tuple[float, float]:
    weights = [1 / (variance + scatter_sq) for variance in variances]
    total = math.fsum(weights)
    return math.fsum(weight * value for weight, value in zip(weights, values, strict=True)) / total, 1 / total


def _excess(values: Sequence[float], variances: Sequence[float], scatter_sq: float) -> float:
    mean, _ = _weighted(values, variances, scatter_sq)
    squares = [(value - mean) ** 2 / (variance + scatter_sq) for value, variance in zip(values, variances, strict=True)]
    return math.fsum(squares) - (len(values) - 1)
