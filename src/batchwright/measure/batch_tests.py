"""Tests that ask of the scatter of gradients whether a batch is large enough."""

import math
from dataclasses import dataclass

from torch import Tensor

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.measure.gradient_statistics import GradientStatistics, ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTest:
    """Answer of a test that asks whether a batch is large enough.

    Attributes:
        passed: Whether the scatter is within the tolerance.
        smallest_tolerance: The tolerance at which the test would just pass; ``inf`` where the mean gradient is zero.
        batch_size: Examples at which the test would just pass were the gradients' scatter the same; not rounded, ``inf``
            where the mean gradient is zero, 0 where nothing scatters.
    """

    passed: bool
    smallest_tolerance: float
    batch_size: float


def norm_test(statistics: GradientStatistics, *, theta: float = 0.5) -> BatchTest:
    """Whether the error of the mean gradient is below ``theta`` times its length: ``trace / B <= theta^2 ||g||^2``.

    Source: Byrd, Chin, Nocedal & Wu (2012), Math. Programming 134, eq. (3.9), and (3.12) for the batch size, without the
    correction for a finite data set.

    Args:
        statistics: Norms are enough.
        theta: Tolerated relative error, above 0; above 1 too where the gradient is only wanted on average.

    Raises:
        InputError: If ``theta`` is not above 0.

    Example:
        >>> norm_test(GradientStatistics.of(torch.tensor([[1.0], [3.0]])), theta=0.5).passed
        True
    """
    return _test("theta", theta, statistics.trace, statistics.grad_sq_norm, statistics.num_examples)


def inner_product_test(statistics: GradientStatistics, *, theta: float = 0.9) -> BatchTest:
    """Whether the step goes downhill with high probability: ``Var(<g_i, g>) / B <= theta^2 ||g||^4``.

    Weaker than the norm test: only the scatter along the mean gradient counts, so it asks for smaller batches.

    Source: Bollapragada, Byrd & Nocedal (2018), arXiv:1710.11258, eq. (2.6).

    Args:
        statistics: With ``inner_products``.
        theta: Tolerance, above 0; 0.9 in the paper's runs.

    Raises:
        InputError: If ``theta`` is not above 0, or the inner products are not known.

    Example:
        >>> inner_product_test(GradientStatistics.of(torch.tensor([[1.0, 5.0], [1.0, -5.0]]))).batch_size
        0.0
    """
    along = _inner_products(statistics, "inner_product_test")
    scatter = float((along - statistics.grad_sq_norm).square().sum()) / (len(along) - 1)
    return _test(
        "theta",
        theta,
        statistics.examples_per_row * scatter,
        statistics.grad_sq_norm**2,
        statistics.num_examples,
    )


def orthogonality_test(statistics: GradientStatistics, *, nu: float = 5.84) -> BatchTest:
    """Whether the mean gradient's error across its own direction is below ``nu`` times its length.

    The companion of the inner-product test, which does not see that error: ``Var(g_i - <g_i, g> g / ||g||^2) / B <= nu^2 ||g||^2``.

    Source: Bollapragada, Byrd & Nocedal (2018), arXiv:1710.11258, eq. (3.3).

    Args:
        statistics: With ``inner_products``.
        nu: Tolerance, above 0; the paper's 5.84 is the tangent of 80 degrees.

    Raises:
        InputError: If ``nu`` is not above 0, or the inner products are not known.

    Example:
        >>> orthogonality_test(GradientStatistics.of(torch.tensor([[1.0, 5.0], [1.0, -5.0]])), nu=5.0).batch_size
        2.0
    """
    along = _inner_products(statistics, "orthogonality_test")
    across = float(statistics.sq_norms.double().sum()) - ratio(float(along.square().sum()), statistics.grad_sq_norm)
    scatter = (0.0 if across < 0 else across) / (len(along) - 1)
    return _test("nu", nu, statistics.examples_per_row * scatter, statistics.grad_sq_norm, statistics.num_examples)


def _test(name: str, tolerance: float, scatter: float, signal: float, num_examples: int) -> BatchTest:
    check_number(name, tolerance, above=0.0)
    # Without a gradient no batch is large enough, also where nothing scatters around it.
    relative = math.inf if signal == 0 else scatter / signal
    return BatchTest(
        passed=relative / num_examples <= tolerance**2,
        smallest_tolerance=math.sqrt(relative / num_examples),
        batch_size=relative / tolerance**2,
    )


def _inner_products(statistics: GradientStatistics, test: str) -> Tensor:
    if statistics.inner_products is None:
        raise InputError(
            f"{test} needs the inner products of the rows with their mean, got norms alone; use GradientStatistics.of or norm_test"
        )
    return statistics.inner_products.double()
