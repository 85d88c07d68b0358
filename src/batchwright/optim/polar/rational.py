"""The polar factor by Zolotarev's rational function on the Gram matrix: the route for a CPU.

Each term is a Cholesky factorisation and an inverse on the short side. The block-wise inverse by Schur complements, which has
more of its work in matrix products, was tried and is no way out: in float32 its errors are as large as the condition number, and
it returned garbage.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.optim.polar.exact import exact_polar
from batchwright.optim.polar.gram import eigenvalue_bounds, in_safe_range, lower_gram
from batchwright.optim.polar.zolotarev import terms_needed, zolotarev

# Below this part of the largest, a singular value is lost in the rounding of a float32 Gram matrix.
FLOAT32_SMALLEST = 5e-4
FLOAT64_SMALLEST = 1e-5


def rational_polar(
    wide: Float[Tensor, "m n"], *, smallest: float, tolerance: float, num_terms: int | None = None
) -> Float[Tensor, "m n"]:
    """``polar(X)`` for ``m <= n``, in the precision of ``wide``, with every singular value within ``tolerance`` of 1.

    That holds for those of at least ``smallest`` times the bound of the largest; smaller ones come out smaller, down to 0 for 0.
    Where the matrix is so near to orthogonal that its own bounds are narrower, they count and fewer terms do.

    Args:
        wide: float32 or float64.
        smallest: At least 5e-4 in float32; below that the exact factor is taken.
        tolerance: Largest distance from 1.
        num_terms: In place of what ``tolerance`` asks for.
    """
    least = FLOAT32_SMALLEST if wide.dtype == torch.float32 else FLOAT64_SMALLEST
    if smallest < least:
        return exact_polar(wide)
    scaled, largest = in_safe_range(wide)
    if largest == 0:
        return torch.zeros_like(wide)
    if not math.isfinite(largest):
        return torch.full_like(wide, math.nan)
    gram = lower_gram(scaled)
    low, high = eigenvalue_bounds(gram)
    lowest = max(smallest, _grid(math.sqrt(low / high)))
    chosen = zolotarev(lowest, num_terms or terms_needed(lowest, tolerance))
    diagonal = gram.diagonal().clone()
    factor: Tensor | None = None
    for weight, shift in zip(chosen.weights, chosen.shifts, strict=True):
        torch.add(diagonal, shift * high, out=gram.diagonal())
        triangle, info = torch.linalg.cholesky_ex(gram)
        if int(info):  # rounding has made it indefinite: a very long side, or a shift at the edge of the precision
            return exact_polar(wide)
        term = torch.cholesky_inverse(triangle).mT  # symmetric, and so its rows lie one after the other
        size = chosen.scale * weight * math.sqrt(high)
        factor = term.mul_(size) if factor is None else factor.add_(term, alpha=size)
    assert factor is not None
    factor.diagonal().add_(chosen.scale / math.sqrt(high))
    # A tall matrix came in transposed; this way what goes out is laid out as it was.
    return factor @ scaled if scaled.is_contiguous() else (scaled.mT @ factor).mT


def _grid(value: float) -> float:
    """The next lower of the values for which coefficients are kept: quarter powers of two."""
    return 0.0 if value <= 0 else min(2.0 ** (math.floor(4 * math.log2(value)) / 4), 1.0)
