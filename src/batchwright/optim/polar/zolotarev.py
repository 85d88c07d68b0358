"""The rational function that is nearest to 1 on the singular values: Zolotarev's, in partial fractions.

With ``R = X X^T`` it takes one Cholesky factorisation and inverse a term, all on the short side of the matrix:
``polar(X) ~ scale (I + sum_j weight_j (R + shift_j I)^-1) X``. Two terms are nearer to 1 than five quintics on ``[1e-3, 1]``.

Source: Zolotarev (1877), the fourth problem, as in Nakatsukasa & Freund (2016), SIAM Review 58(3), section 4.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from batchwright.core.checks import check_int, check_number

MAX_TERMS = 8
GRID = 8001


@dataclass(frozen=True, kw_only=True, slots=True)
class Rational:
    """``f(s) = scale s (1 + sum_j weights_j / (s^2 + shifts_j))``.

    Attributes:
        scale: As above.
        shifts: All above 0, the smallest first.
        weights: All above 0.
        error: Largest ``|1 - f(s)|`` on ``[smallest, 1]``.
        smallest: Lower end of the singular values that it was made for.
    """

    scale: float
    shifts: tuple[float, ...]
    weights: tuple[float, ...]
    error: float
    smallest: float

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """What becomes of singular values."""
        squares = values * values
        terms = sum(weight / (squares + shift) for weight, shift in zip(self.weights, self.shifts, strict=True))
        return np.asarray(self.scale * values * (1 + terms))


@lru_cache(maxsize=256)
def zolotarev(smallest: float, num_terms: int) -> Rational:
    """The odd rational function of type ``(2 num_terms + 1, 2 num_terms)`` nearest to 1 on ``[smallest, 1]``.

    Raises:
        InputError: If ``smallest`` is not within ``1e-5`` and 1, or ``num_terms`` not within 1 and 8.

    Example:
        >>> [round(zolotarev(1e-3, num_terms).error, 3) for num_terms in (1, 2, 3)]
        [0.603, 0.202, 0.062]
    """
    from scipy.special import ellipj, ellipkm1

    check_number("smallest", smallest, at_least=1e-5, at_most=1.0)
    check_int("num_terms", num_terms, at_least=1)
    check_number("num_terms", num_terms, at_most=MAX_TERMS)
    low = min(smallest, 0.999)  # at 1 the elliptic functions have no interval to live on
    places = np.arange(1, 2 * num_terms + 1) * ellipkm1(low * low) / (2 * num_terms + 1)
    sn, cn, _, _ = ellipj(places, 1 - low * low)
    roots = (low * sn / cn) ** 2
    shifts, zeros = roots[0::2], roots[1::2]
    weights = np.array(
        [np.prod(zeros - shift) / np.prod(np.delete(shifts, j) - shift) for j, shift in enumerate(shifts)]
    )
    grid = np.exp(np.linspace(math.log(low), 0.0, GRID))
    plain = grid * (1 + (weights / (grid[:, None] ** 2 + shifts)).sum(axis=1))
    scale = 2 / (plain.max() + plain.min())
    return Rational(
        scale=float(scale),
        shifts=tuple(float(value) for value in shifts),
        weights=tuple(float(value) for value in weights),
        error=float(np.abs(1 - scale * plain).max()),
        smallest=smallest,
    )


@lru_cache(maxsize=256)
def terms_needed(smallest: float, tolerance: float) -> int:
    """The fewest terms whose error on ``[smallest, 1]`` is at most ``tolerance``, at most eight.

    Example:
        >>> terms_needed(2e-3, 0.2), terms_needed(1e-3, 0.07)
        (2, 3)
    """
    check_number("tolerance", tolerance, above=0.0, below=1.0)
    for num_terms in range(1, MAX_TERMS):
        if zolotarev(smallest, num_terms).error <= tolerance:
            return num_terms
    return MAX_TERMS
