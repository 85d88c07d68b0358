"""Squared MMD from a part of the pairs, in linear time or in blocks, with an interval that is normal for equal laws too.

Sources: Gretton et al. (2012), section 6 (linear time); Zaremba, Gretton, Blaschko (2013), *B-tests*, arXiv:1307.1954 (blocks).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.kernels import Kernel
from batchwright.core.mmd.value import PUBLISHED, checked_samples, mmd2
from batchwright.core.statistics import normal_quantile, student_quantile


@dataclass(frozen=True, kw_only=True, slots=True)
class MmdOfParts:
    """Squared MMD as a mean over independent parts of the samples.

    Attributes:
        value: The mean, unbiased.
        variance: Estimate of its variance, from the scatter of the parts.
        low: Lower end of the interval.
        high: Upper end.
        p_value: Of the one-sided test that the laws are equal; normal, or Student's law over few blocks.
        num_parts: Independent parts.
        num_points: Points of each sample that were used.
        level: Nominal coverage.
    """

    value: float
    variance: float
    low: float
    high: float
    p_value: float
    num_parts: int
    num_points: int
    level: float


@torch.no_grad()
def mmd2_linear(
    x: Float[Tensor, "N h"], y: Float[Tensor, "K h"], kernel: Kernel | None = None, *, level: float = 0.95
) -> MmdOfParts:
    """The mean over consecutive pairs of rows of ``k(x, x') + k(y, y') - k(x, y') - k(x', y)``; a last odd row is left out.

    The rows must be in random order. Time and memory are linear, and the scatter far larger than that of `mmd2`.

    Raises:
        InputError: If the samples differ in size or hold fewer than 4 points.
    """
    x, y = checked_samples(x, y, at_least=4)
    _check_equal(x, y)
    kernel = PUBLISHED if kernel is None else kernel
    num_parts = len(x) // 2
    x1, x2, y1, y2 = x[: 2 * num_parts : 2], x[1::2][:num_parts], y[: 2 * num_parts : 2], y[1::2][:num_parts]
    parts = kernel.paired(x1, x2) + kernel.paired(y1, y2) - kernel.paired(x1, y2) - kernel.paired(x2, y1)
    return _of_parts(parts.double(), 2 * num_parts, level, student=False)


@torch.no_grad()
def mmd2_blocks(
    x: Float[Tensor, "N h"],
    y: Float[Tensor, "K h"],
    kernel: Kernel | None = None,
    *,
    num_rows: int | None = None,
    level: float = 0.95,
) -> MmdOfParts:
    """The mean of the unbiased squared MMD over blocks of rows; rows left over are left out.

    Args:
        x: First sample, in random order.
        y: Second sample, as many points.
        kernel: As in `mmd2`.
        num_rows: Rows of each sample in a block, at least 2; the root of their number where left out.
        level: Nominal coverage.

    Raises:
        InputError: If the samples differ in size, or there are fewer than two blocks.
    """
    x, y = checked_samples(x, y, at_least=4)
    _check_equal(x, y)
    size = max(2, math.isqrt(len(x))) if num_rows is None else check_int("num_rows", num_rows, at_least=2)
    num_parts = len(x) // size
    if num_parts < 2:
        raise InputError(
            f"num_rows must leave at least two blocks, got num_rows={size} for {len(x)} points; use at most {len(x) // 2}"
        )
    parts = [
        mmd2(x[start : start + size], y[start : start + size], kernel) for start in range(0, num_parts * size, size)
    ]
    return _of_parts(torch.stack(parts).double(), num_parts * size, level, student=True)


def _check_equal(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise InputError(
            f"x and y must hold equally many points here, got {len(x)} and {len(y)}; cut the longer one, or use mmd2_estimate"
        )


def _of_parts(parts: Tensor, num_points: int, level: float, *, student: bool) -> MmdOfParts:
    check_number("level", level, above=0.0, below=1.0)
    from scipy.special import ndtr, stdtr

    num_parts = len(parts)
    value, variance = float(parts.mean()), float(parts.var()) / num_parts
    error = math.sqrt(variance)
    quantile = student_quantile(level, num_parts - 1) if student else normal_quantile(level)
    ratio = value / error if error > 0 else (math.inf if value > 0 else 0.0)
    p_value = stdtr(num_parts - 1, -ratio) if student else ndtr(-ratio)
    return MmdOfParts(
        value=value,
        variance=variance,
        low=value - quantile * error,
        high=value + quantile * error,
        p_value=float(p_value),
        num_parts=num_parts,
        num_points=num_points,
        level=level,
    )
