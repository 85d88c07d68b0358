"""The scatter of gradients: one set of statistics, which the tests and batch sizes beside this read, and small functions of it.

The rows are gradients of single examples, or mean gradients of micro-batches of equal size; of them only squared norms, inner
products with the mean gradient, and the mean gradient's squared norm are needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int
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
    return ratio(float(statistics.sq_norms.double().sum()), count**2 * statistics.grad_sq_norm)


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
    cosine = ratio(float(dot(left, right)), length)
    return math.nan if length == 0 else max(-1.0, min(1.0, cosine)) if cosine == cosine else cosine


def ratio(numerator: float, denominator: float) -> float:
    """The quotient, with the answers of floating-point arithmetic in place of an exception at zero."""
    if denominator != 0:
        return numerator / denominator
    return math.nan if numerator == 0 or math.isnan(numerator) else math.inf
