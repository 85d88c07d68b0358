"""A quantity that differs between tasks, from estimates with errors of their own: its mean, its scatter, and the next task's.

Source: Bodnar, Link & Elster (2016), Bayesian Analysis 11, 25: the random-effects model with the reference prior of the scatter.
Where the estimates have no errors of their own its intervals are Student's with ``k - 1`` degrees of freedom. A single fitted scatter
instead gave predictive intervals that held 90 % at the nominal 95 where errors are as large as the scatter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchwright.core.errors import InputError
from batchwright.core.statistics import normal_quantile

Array = NDArray[np.float64]
NUM_SCATTERS = 600


@dataclass(frozen=True, kw_only=True)
class RandomEffects:
    """Posterior of a quantity over tasks, as a mixture of normals over the scatter.

    Attributes:
        mean: Over tasks, posterior median.
        scatter: Standard deviation of the true values between tasks, errors of measurement taken out; posterior median.
        weights: Of the tasks in the mean at that scatter; they sum to 1.
        scatters: Grid of scatters.
        probabilities: Of these.
        means: Mean over tasks at each.
        variances: Of that mean at each.
    """

    mean: float
    scatter: float
    weights: tuple[float, ...]
    scatters: Array
    probabilities: Array
    means: Array
    variances: Array

    @property
    def count(self) -> int:
        """Number of tasks."""
        return len(self.weights)

    def mean_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the mean over tasks."""
        return self._interval(self.variances, level)

    def predictive_interval(self, level: float = 0.95, extra_variance: float = 0.0) -> tuple[float, float]:
        """Interval of one more task's true value; ``extra_variance`` is of an error that it has besides."""
        return self._interval(self.variances + self.scatters**2 + extra_variance, level)

    @property
    def variance(self) -> float:
        """Squared standard error of the mean: that of the normal whose 95 % interval is as wide."""
        low, high = self.mean_interval(0.95)
        return ((high - low) / (2 * normal_quantile(0.95))) ** 2

    def _interval(self, variances: Array, level: float) -> tuple[float, float]:
        ends = (_quantile(self.probabilities, self.means, variances, 0.5 + sign * level / 2) for sign in (-1, 1))
        low, high = ends
        return low, high


def random_effects(values: Sequence[float], variances: Sequence[float]) -> RandomEffects:
    """Posterior of the model ``value_i = mean + scatter_i + error_i`` under the reference prior.

    Args:
        values: One estimate a task, at least 2.
        variances: Squared standard error of each, at least 0.

    Raises:
        InputError: If there are fewer than two values, or the lengths disagree.

    Example:
        >>> low, high = random_effects([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]).mean_interval(0.95)
        >>> round((high - low) / 2, 2)  # Student's 4.30 times 1 / sqrt(3)
        2.48
    """
    if len(values) < 2 or len(values) != len(variances):
        raise InputError(
            f"values and variances must be equally many, at least 2, got {len(values)} and {len(variances)}"
        )
    data, errors = np.asarray(values, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    spread = max(float(np.ptp(data)), float(np.sqrt(errors.min())), 1e-9)
    grid = np.geomspace(1e-4 * spread, 1e3 * spread, NUM_SCATTERS)
    totals = errors[None, :] + grid[:, None] ** 2
    precision = (1 / totals).sum(axis=1)
    means = (data / totals).sum(axis=1) / precision
    squares = ((data - means[:, None]) ** 2 / totals).sum(axis=1)
    # The marginal likelihood with the mean integrated out, times the reference prior, times the width of a step of the grid.
    prior = np.log(grid) + 0.5 * np.log((1 / totals**2).sum(axis=1))
    log = -0.5 * (np.log(totals).sum(axis=1) + np.log(precision) + squares) + prior + np.log(grid)
    probabilities = np.exp(log - log.max())
    probabilities /= probabilities.sum()
    scatter = float(np.exp(np.interp(0.5, np.cumsum(probabilities), np.log(grid))))
    weights = 1 / (errors + scatter**2)
    return RandomEffects(
        mean=_quantile(probabilities, means, 1 / precision, 0.5),
        scatter=scatter,
        weights=tuple(float(each) for each in weights / weights.sum()),
        scatters=grid,
        probabilities=probabilities,
        means=means,
        variances=1 / precision,
    )


def _quantile(probabilities: Array, means: Array, variances: Array, part: float) -> float:
    """Where the mixture of normals has ``part`` of its mass below."""
    from scipy.special import ndtr

    deviations = np.sqrt(variances)
    low, high = float((means - 40 * deviations).min()), float((means + 40 * deviations).max())
    for _ in range(100):
        middle = (low + high) / 2
        below = float((probabilities * ndtr((middle - means) / deviations)).sum())
        low, high = (middle, high) if below < part else (low, middle)
        if math.isclose(low, high, rel_tol=1e-12, abs_tol=1e-12):
            break
    return (low + high) / 2
