"""Relative test of three samples: which of two candidates is nearer to a reference.

Source: Bounliphone et al. (2016), *A Test of Relative Similarity for Model Selection in Generative Models*,
    arXiv:1511.04581. Deviation: the
variance of the difference is the jackknife's over the points of all three samples, which is never negative and takes in
the second order.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.kernels import Kernel
from batchwright.core.mmd.sums import pair_sums
from batchwright.core.mmd.value import PUBLISHED, checked_samples


@dataclass(frozen=True, kw_only=True, slots=True)
class RelativeTest:
    """Result of a relative test.

    Attributes:
        p_value: One-sided, of ``MMD(reference, first) <= MMD(reference, second)``: small where the second is surely nearer.
        difference: Unbiased ``MMD^2(reference, first) - MMD^2(reference, second)``.
        standard_error: Of the difference.
    """

    p_value: float
    difference: float
    standard_error: float


def relative_test(
    reference: Float[Tensor, "M h"],
    first: Float[Tensor, "N h"],
    second: Float[Tensor, "L h"],
    kernel: Kernel | None = None,
    *,
    block_size: int | None = None,
) -> RelativeTest:
    """Test whether ``second`` is nearer to ``reference`` than ``first`` is.

    The difference is normal where the candidates differ from the reference. Where both are equal to it in law the
    jackknife counts the second order twice, and the test rejects less often than its level says.

    Args:
        reference: For example data.
        first: For example samples of a former generator.
        second: For example samples of the present generator.
        kernel: As in `mmd2`; the kernel inception distance uses `Polynomial()`.
        block_size: As in `mmd2`.

    Raises:
        InputError: If the samples do not go together or hold fewer than 3 points.
    """
    _, first = checked_samples(reference, first, at_least=3)
    reference, second = checked_samples(reference, second, at_least=3)
    kernel = PUBLISHED if kernel is None else kernel
    from_reference: list[Tensor] = []
    difference, variance = 0.0, 0.0
    for sign, candidate in ((1.0, first), (-1.0, second)):
        own = pair_sums(kernel, candidate, block_size=block_size)
        cross = pair_sums(kernel, reference, candidate, block_size=block_size)
        m, n = len(reference), len(candidate)
        difference += sign * (own.total / (n * (n - 1)) - 2 * cross.total / (m * n))
        left_out = (own.total - 2 * own.rows) / ((n - 1) * (n - 2)) - 2 * (cross.total - cross.columns) / (m * (n - 1))
        variance += _jackknife(left_out)
        from_reference.append(-2 * sign * (cross.total - cross.rows) / ((m - 1) * n))
    # The reference's own pairs are in both distances and cancel.
    variance += _jackknife(from_reference[0] + from_reference[1])
    error = math.sqrt(variance)
    from scipy.special import ndtr

    ratio = difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0
    return RelativeTest(p_value=float(ndtr(-ratio)), difference=difference, standard_error=error)


def _jackknife(left_out: Tensor) -> float:
    """Variance of an estimate from its values with each point left out."""
    num = len(left_out)
    return float((num - 1) / num * torch.sum((left_out - left_out.mean()).square()))
