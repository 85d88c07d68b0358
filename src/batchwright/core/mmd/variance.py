"""How far the unbiased squared MMD scatters, estimated from the samples themselves, and for any other batch size.

Source: Hoeffding's decomposition of a two-sample U-statistic. Sutherland and Deka (2019), *Unbiased estimators for the
    variance of MMD
estimators*, arXiv:1906.02104, give it for equal sizes; here the sizes may differ. Bounliphone et al. (2016),
arXiv:1511.04581, keep the first order alone.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.kernels import Kernel
from batchwright.core.mmd.sums import PairSums, pair_sums
from batchwright.core.mmd.value import PUBLISHED, checked_samples
from batchwright.core.statistics import normal_quantile


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterParts:
    """What the variance of the unbiased squared MMD is made of, as properties of the two laws and the kernel, not of sample sizes.

    Attributes:
        x_first: Variance over ``x`` of ``E[k(x, x') | x]``.
        x_second: Variance of ``k(x, x')``.
        y_first: As ``x_first``, of ``y``.
        y_second: As ``x_second``, of ``y``.
        cross_x: Variance over ``x`` of ``E[k(x, y) | x]``.
        cross_y: Variance over ``y`` of ``E[k(x, y) | y]``.
        cross_second: Variance of ``k(x, y)``.
        shared_x: Covariance over ``x`` of ``E[k(x, x') | x]`` and ``E[k(x, y) | x]``.
        shared_y: As ``shared_x``, of ``y``.
    """

    x_first: float
    x_second: float
    y_first: float
    y_second: float
    cross_x: float
    cross_y: float
    cross_second: float
    shared_x: float
    shared_y: float

    def variance(self, num_x: int, num_y: int) -> float:
        """Variance of the unbiased squared MMD of so many points; an estimate of it may be negative where it is small.

        Args:
            num_x: Points from the law of ``x``, at least 2.
            num_y: Points from the law of ``y``, at least 2.
        """
        m, n = check_int("num_x", num_x, at_least=2), check_int("num_y", num_y, at_least=2)
        of_x = (4 * (m - 2) * self.x_first + 2 * self.x_second) / (m * (m - 1))
        of_y = (4 * (n - 2) * self.y_first + 2 * self.y_second) / (n * (n - 1))
        cross = ((n - 1) * self.cross_x + (m - 1) * self.cross_y + self.cross_second) / (m * n)
        return of_x + of_y + 4 * cross - 8 * self.shared_x / m - 8 * self.shared_y / n


@dataclass(frozen=True, kw_only=True, slots=True)
class MmdEstimate:
    """Unbiased squared MMD with its variance.

    Attributes:
        value: The estimate; negative about half the time when the laws are equal.
        variance: Unbiased estimate of its variance; may itself be negative where the laws are nearly equal.
        low: Lower end of the normal interval, with a variance below zero taken as zero.
        high: Upper end.
        level: Nominal coverage. The interval holds for laws that differ; for equal laws the estimate is not normal: use a test.
        num_x: Points of the first sample.
        num_y: Points of the second.
        parts: What the variance is made of; ``parts.variance(m, n)`` predicts it for other sizes.
    """

    value: float
    variance: float
    low: float
    high: float
    level: float
    num_x: int
    num_y: int
    parts: ScatterParts


def mmd2_estimate(
    x: Float[Tensor, "M h"],
    y: Float[Tensor, "N h"],
    kernel: Kernel | None = None,
    *,
    level: float = 0.95,
    block_size: int | None = None,
) -> MmdEstimate:
    """Estimate the squared MMD with its variance; numbers, without gradients.

    Args:
        x: First sample, at least 4 points.
        y: Second sample, at least 4 points.
        kernel: As in `mmd2`.
        level: Nominal coverage of the interval.
        block_size: As in `mmd2`.

    Raises:
        InputError: If the samples do not go together or are too small.

    Example:
        >>> found = mmd2_estimate(torch.zeros(8, 2), torch.zeros(8, 2))
        >>> found.value, found.variance
        (0.0, 0.0)
    """
    check_number("level", level, above=0.0, below=1.0)
    x, y = checked_samples(x, y, at_least=4)
    kernel = PUBLISHED if kernel is None else kernel
    xx = pair_sums(kernel, x, block_size=block_size)
    yy = pair_sums(kernel, y, block_size=block_size)
    xy = pair_sums(kernel, x, y, block_size=block_size)
    value = value_of_sums(xx, yy, xy)
    parts = scatter_parts(xx, yy, xy)
    variance = parts.variance(len(x), len(y))
    reach = normal_quantile(level) * math.sqrt(max(variance, 0.0))
    return MmdEstimate(
        value=value,
        variance=variance,
        low=value - reach,
        high=value + reach,
        level=level,
        num_x=len(x),
        num_y=len(y),
        parts=parts,
    )


def value_of_sums(xx: PairSums, yy: PairSums, xy: PairSums) -> float:
    """The unbiased squared MMD."""
    m, n = len(xy.rows), len(xy.columns)
    return xx.total / (m * (m - 1)) + yy.total / (n * (n - 1)) - 2 * xy.total / (m * n)


def scatter_parts(xx: PairSums, yy: PairSums, xy: PairSums) -> ScatterParts:
    """Unbiased estimates of the parts: each product of expectations is a mean over pairs of pairs that share no point."""
    m, n = len(xy.rows), len(xy.columns)
    x_first, x_second = _within(xx, m)
    y_first, y_second = _within(yy, n)
    by_rows, by_columns = float(xy.rows.square().sum()), float(xy.columns.square().sum())
    mean_square = (xy.total**2 - by_rows - by_columns + xy.squares) / (m * n * (m - 1) * (n - 1))
    return ScatterParts(
        x_first=x_first,
        x_second=x_second,
        y_first=y_first,
        y_second=y_second,
        cross_x=(by_rows - xy.squares) / (m * n * (n - 1)) - mean_square,
        cross_y=(by_columns - xy.squares) / (m * n * (m - 1)) - mean_square,
        cross_second=xy.squares / (m * n) - mean_square,
        shared_x=_shared(xx, xy.rows, xy.total, n),
        shared_y=_shared(yy, xy.columns, xy.total, m),
    )


def _within(sums: PairSums, n: int) -> tuple[float, float]:
    by_rows = float(sums.rows.square().sum())
    mean_square = (sums.total**2 - 4 * by_rows + 2 * sums.squares) / (n * (n - 1) * (n - 2) * (n - 3))
    first = (by_rows - sums.squares) / (n * (n - 1) * (n - 2))
    return first - mean_square, sums.squares / (n * (n - 1)) - mean_square


def _shared(within: PairSums, cross: Tensor, cross_total: float, num_other: int) -> float:
    n = len(cross)
    together = float((within.rows * cross).sum())
    apart = (within.total * cross_total - 2 * together) / (n * (n - 1) * (n - 2) * num_other)
    return together / (n * (n - 1) * num_other) - apart
