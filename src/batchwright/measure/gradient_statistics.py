"""Tests and batch sizes that read the scatter of gradients: small functions on one set of statistics.

The rows are gradients of single examples, or mean gradients of micro-batches of equal size; of them only squared norms, inner
products with the mean gradient, and the mean gradient's squared norm are needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.vectors import dot, sq_norm


@dataclass(frozen=True, kw_only=True)
class GradientStatistics:
    """What the tests below need to know of ``K`` gradients with the mean ``g``.

    Attributes:
        sq_norms: ``||g_i||^2`` of each row, shape ``(K,)``; the gradient of the row's own mean loss, not divided by ``K``.
        grad_sq_norm: ``||g||^2``, the plain squared norm of their mean; not corrected for its noise.
        inner_products: ``<g_i, g>`` of each row, shape ``(K,)``; None where only norms are known.
        examples_per_row: Examples in a row: 1 for per-example gradients, else the size of the micro-batches.

    Raises:
        InputError: If there are fewer than two rows, a norm is negative, or the shapes differ.
    """

    sq_norms: Float[Tensor, " K"]
    grad_sq_norm: float
    inner_products: Float[Tensor, " K"] | None = None
    examples_per_row: int = 1

    def __post_init__(self) -> None:
        check_int("examples_per_row", self.examples_per_row, at_least=1)
        if len(self.sq_norms) < 2:
            raise InputError(f"sq_norms must hold at least 2 rows, got {len(self.sq_norms)}; measure a larger batch")
        if bool((self.sq_norms < 0).any()) or self.grad_sq_norm < 0:
            raise InputError("sq_norms and grad_sq_norm must not be negative; give squared norms as they are")
        if self.inner_products is not None and self.inner_products.shape != self.sq_norms.shape:
            raise InputError(
                f"inner_products must hold one number a row, got shape {tuple(self.inner_products.shape)} for "
                f"{len(self.sq_norms)} rows"
            )

    @classmethod
    def of(cls, grads: Float[Tensor, "K D"], *, examples_per_row: int = 1) -> "GradientStatistics":
        """The statistics of gradients that are held whole, one a row.

        Example:
            >>> GradientStatistics.of(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).grad_sq_norm
            0.5
        """
        rows = grads.detach().double()
        if len(rows) < 2:
            raise InputError(f"grads must hold at least 2 rows, got {len(rows)}; measure a larger batch")
        mean = rows.mean(dim=0)
        return cls(
            sq_norms=rows.square().sum(dim=1),
            grad_sq_norm=float(mean.square().sum()),
            inner_products=rows @ mean,
            examples_per_row=examples_per_row,
        )

    @property
    def num_examples(self) -> int:
        """Examples behind the mean gradient."""
        return len(self.sq_norms) * self.examples_per_row

    @property
    def trace(self) -> float:
        """Unbiased estimate of the trace of the per-example gradient covariance; not below zero.

        Source: Byrd et al. (2012), eq. (3.6), summed over the parameters. The mean gradient of ``n`` examples scatters by an ``n``-th
        of it, so rows of micro-batches are scaled back.
        """
        count = len(self.sq_norms)
        scatter = float(self.sq_norms.double().sum()) - count * self.grad_sq_norm
        # Rounding can leave a scatter of zero just below it; NaN stays NaN.
        return self.examples_per_row * (0.0 if scatter < 0 else scatter) / (count - 1)


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


def gradient_diversity(statistics: GradientStatistics) -> float:
    """How little the gradients of single examples point the same way: ``sum ||g_i||^2 / ||sum g_i||^2``.

    Times the number of rows it runs from 1, all alike, over the number of rows, all orthogonal, to ``inf``, where they cancel.
    SGD of batches up to that product was shown to need no more epochs than with single examples.

    Source: Yin et al. (2018), arXiv:1706.05699, the definitions of gradient diversity and of the batch-size bound ``n * diversity``.

    Args:
        statistics: Of per-example gradients; of micro-batches it is the diversity of their means.

    Returns:
        The diversity, without a unit; ``inf`` for a mean gradient of zero, NaN for NaN.

    Example:
        >>> gradient_diversity(GradientStatistics.of(torch.eye(4)))
        1.0
    """
    count = len(statistics.sq_norms)
    return _ratio(float(statistics.sq_norms.double().sum()), count**2 * statistics.grad_sq_norm)


def dive_batch_size(diversity: float, *, num_examples: int, delta: float, max_batch_size: int) -> float:
    """Next batch size of DiveBatch: ``min(max_batch_size, delta * num_examples * diversity)``, in examples, not rounded.

    Source: Chen, Wang & Sundaram (2025), arXiv:2509.16173, algorithm 1. Deviation: the paper sums the norms over an epoch while the
    parameters move; any diversity may be given here.

    Args:
        diversity: As of `gradient_diversity`.
        num_examples: Rows behind ``diversity``: the training set for an epoch's worth.
        delta: Share of the bound that is used, above 0; 0.1 and 1 in the paper's runs.
        max_batch_size: Never more.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> dive_batch_size(0.02, num_examples=50_000, delta=0.1, max_batch_size=2048)
        100.0
    """
    check_int("num_examples", num_examples, at_least=1)
    check_int("max_batch_size", max_batch_size, at_least=1)
    check_number("delta", delta, above=0.0)
    if not diversity >= 0:
        raise InputError(f"diversity must not be negative, got {diversity!r}; take it from gradient_diversity")
    return float(min(max_batch_size, delta * num_examples * diversity))


def gradient_snr(grads: Float[Tensor, "K D"], *, examples_per_row: int = 1) -> Float[Tensor, " D"]:
    """Signal-to-noise ratio of each parameter's gradient: squared mean over the variance between examples.

    Source: Liu et al. (2020), arXiv:2001.07384, eq. (1). Deviation: the variance is the unbiased one, and nothing is added to it.

    Args:
        grads: One gradient a row; not divided by ``K``.
        examples_per_row: Examples in a row.

    Returns:
        The ratios in float64, without a unit: ``inf`` where nothing scatters, NaN where the mean is zero too. A batch of ``B``
        has ``B`` times the ratio. The squared mean is too large by the variance over ``K`` rows.

    Raises:
        InputError: If there are fewer than two rows.

    Example:
        >>> gradient_snr(torch.tensor([[1.0, 2.0], [3.0, 2.0]])).tolist()
        [2.0, inf]
    """
    check_int("examples_per_row", examples_per_row, at_least=1)
    if len(grads) < 2:
        raise InputError(f"grads must hold at least 2 rows, got {len(grads)}; measure a larger batch")
    rows = grads.detach().double()
    return rows.mean(dim=0).square() / (examples_per_row * rows.var(dim=0, correction=1))


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
    across = float(statistics.sq_norms.double().sum()) - _ratio(float(along.square().sum()), statistics.grad_sq_norm)
    scatter = (0.0 if across < 0 else across) / (len(along) - 1)
    return _test("nu", nu, statistics.examples_per_row * scatter, statistics.grad_sq_norm, statistics.num_examples)


def cabs_batch_size(trace: float, *, loss: float, lr: float) -> float:
    """Batch size of CABS, ``lr * trace / loss``, in examples, not rounded.

    Source: Balles, Romero & Hennig (2017), arXiv:1612.05086, eq. (22): for SGD without momentum, whose loss can fall to zero.

    Args:
        trace: Of the per-example gradient covariance, as `GradientStatistics.trace` or a noise scale gives it.
        loss: Mean loss above the lowest that can be reached; not negative.
        lr: Learning rate, above 0.

    Returns:
        The batch size; ``inf`` for a loss of zero, NaN where both are zero.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> cabs_batch_size(64.0, loss=2.0, lr=0.5)
        16.0
    """
    check_number("trace", trace, at_least=0.0)
    check_number("loss", loss, at_least=0.0, way_out="subtract the lowest loss that can be reached")
    check_number("lr", lr, above=0.0)
    return _ratio(lr * trace, loss)


def cosine_of_halves(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Cosine of the angle between the gradients of two halves of a batch; 1 where they agree, near 0 where noise rules.

    Source: Qin et al. (2021), SimiGrad, NeurIPS 34, section 3: the batch is grown while the cosine is below a target.
    With ``h`` examples a half and noise scale ``S`` it is about ``1 / (1 + S / h)``.

    Args:
        left: Gradient of one half, tensor by tensor, as `torch.autograd.grad` gives it.
        right: Gradient of the other half, in the same order.

    Returns:
        The cosine, from -1 to 1; NaN where a gradient is zero or NaN.

    Raises:
        InputError: If the two do not hold tensors of the same shapes.

    Example:
        >>> cosine_of_halves([torch.tensor([1.0, 0.0])], [torch.tensor([3.0, 4.0])])
        0.6
    """
    shapes = [[tuple(tensor.shape) for tensor in half] for half in (left, right)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise InputError(f"left and right must hold tensors of the same shapes, got {shapes[0]} and {shapes[1]}")
    length = math.sqrt(float(sq_norm(left)) * float(sq_norm(right)))
    cosine = _ratio(float(dot(left, right)), length)
    return math.nan if length == 0 else max(-1.0, min(1.0, cosine)) if cosine == cosine else cosine


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


def _ratio(numerator: float, denominator: float) -> float:
    """The quotient, with the answers of floating-point arithmetic in place of an exception at zero."""
    if denominator != 0:
        return numerator / denominator
    return math.nan if numerator == 0 or math.isnan(numerator) else math.inf
