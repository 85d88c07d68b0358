"""How far down the singular values of a matrix matter, by measuring them: what `PolarOptions.smallest` is for that matrix.

A fixed number of steps lifts the singular values above a fixed part of the largest. A power-law tail lies below it (papers-2026,
T2.3: five steps recover 65 items of an associative memory where the exact factor recovers 309), and a flat spectrum needs fewer steps.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.optim.polar.gram import full_gram, in_safe_range
from batchwright.optim.polar.rational import FLOAT64_SMALLEST

# No route lifts anything smaller, but for the exact one, which needs no `smallest`.
LEAST = FLOAT64_SMALLEST


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectrum:
    """The singular values of a matrix in three numbers.

    Attributes:
        num_carrying: How many of the largest carry the share of the nuclear norm that was asked for.
        smallest: The last of these, over the bound by which the route divides the matrix: within 1e-5 and 1. Rounded down to a power of
            two, so that few depths occur and the spectrum may move a little until it is measured again.
        effective_rank: ``(sum s)^2 / sum s^2``: the number of equal singular values with the same two norms.
    """

    num_carrying: int
    smallest: float
    effective_rank: float


def measure_spectrum(matrix: Tensor, *, share: float = 0.99, route: str = "rational") -> Spectrum | None:
    """Measure all singular values, by the eigenvalues of the Gram matrix of the short side in float64.

    Args:
        matrix: ``(m, n)``.
        share: Part of the nuclear norm, above 0 and below 1, that the factor is to have right.
        route: ``rational`` divides by the bound of `eigenvalue_bounds`, all others by the Frobenius norm.

    Returns:
        None for a matrix that is zero, empty or not finite.

    Example:
        >>> found = measure_spectrum(torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.01])), share=0.99, route="polar-express")
        >>> found.num_carrying, found.smallest  # 1 over the root of 21 is 0.218
        (3, 0.125)
    """
    check_number("share", share, above=0.0, below=1.0)
    if matrix.ndim != 2:
        raise InputError(
            f"matrix must have two axes, got shape {tuple(matrix.shape)}; flatten the axes after the first"
        )
    if matrix.numel() == 0:
        return None
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT).detach()
    scaled, largest = in_safe_range(wide)
    if largest == 0 or not math.isfinite(largest):
        return None
    eigenvalues = torch.linalg.eigvalsh(full_gram(scaled.double())).clamp(min=0).flip(0)
    values = eigenvalues.sqrt()
    sums = values.cumsum(0)
    # The first place at which the sum is reached; rounding may leave the last sum a hair below.
    count = min(int((sums < share * sums[-1]).sum()) + 1, len(values))
    trace = float(eigenvalues.sum())
    bound = math.sqrt(trace)
    if route == "rational":
        mean = trace / len(values)
        spread = math.sqrt(max(float(eigenvalues.square().mean()) - mean * mean, 0.0))
        bound = math.sqrt(mean + spread * math.sqrt(len(values) - 1))
    smallest = float(values[count - 1]) / bound
    return Spectrum(
        num_carrying=count,
        smallest=min(max(2.0 ** math.floor(math.log2(smallest)), LEAST), 1.0) if smallest > 0 else LEAST,
        effective_rank=float(sums[-1]) ** 2 / trace,
    )
