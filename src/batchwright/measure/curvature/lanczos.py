"""Outermost eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation and thick restarts.

Sources: Parlett (1998), "The Symmetric Eigenvalue Problem", chapters 11 and 13 (error bounds, reorthogonalisation); Wu & Simon (2000),
"Thick-restart Lanczos method for large symmetric eigenvalue problems"; van Dorsselaer, Hochstenbach & van der Vorst (2000), "Computing
probabilistic bounds for extreme eigenvalues of symmetric matrices with the Lanczos method", section 3 (the upper limit).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.measure.curvature.lanczos_basis import LanczosBasis, Ritz
from batchwright.measure.curvature.operator import CurvatureOperator
from batchwright.measure.curvature.ritz_error import NUM_FRESH

Array = NDArray[np.float64]
MAX_BASIS = 48


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EigenPairs:
    """Outermost eigenvalues of a symmetric operator, the largest first.

    Attributes:
        values: The largest eigenvalues in falling order, then the smallest in falling order.
        vectors: Their eigenvectors of unit length, one a row.
        residuals: ``||A v - value v||``, absolute, of each.
        errors: Estimated error of each value: at most its residual, which bounds the distance to some eigenvalue, and less where the
            other values found, and the latest steps taken as those to come, leave it less to move (`ritz_error`).
        converged: Whether every error is below the tolerance, and ``high`` as close as it was asked to be.
        high: Upper limit of the largest eigenvalue, with probability ``level`` over the random part of the start; ``inf`` without one.
        num_products: Products with the operator.
    """

    values: tuple[float, ...]
    vectors: Float[Tensor, "k D"]
    residuals: tuple[float, ...]
    errors: tuple[float, ...]
    converged: bool
    high: float
    num_products: int


def extreme_eigenpairs(
    operator: CurvatureOperator,
    start: Float[Tensor, " D"],
    *,
    num_largest: int = 1,
    num_smallest: int = 0,
    tol: float = 1e-3,
    max_products: int = 100,
    max_basis: int = MAX_BASIS,
    random_length: float = 0.0,
    level: float = 0.95,
    high_tol: float | None = None,
    generator: torch.Generator | None = None,
) -> EigenPairs:
    """The algebraically largest and smallest eigenvalues, each to a relative error ``tol``.

    A start without any part of an eigenvector does not find it: mix random numbers into it. Where the vectors reached are
    closed under the operator, a random direction outside them is added until it brings nothing new, so multiple eigenvalues
    are found as often as they are there.

    Args:
        operator: A symmetric operator of dimension ``D``.
        start: First vector, not zero.
        num_largest: Eigenvalues wanted from the top.
        num_smallest: Eigenvalues wanted from the bottom.
        tol: Estimated error of each value over its size at which it counts as found.
        max_products: Products after which the best so far is returned with ``converged=False``.
        max_basis: Vectors of ``D`` numbers held; beyond them the best are kept and the rest forgotten.
        random_length: Length of the part of the start, scaled to length 1, that points to a uniformly random direction.
        level: Probability with which ``high`` holds.
        high_tol: Go on until ``high`` is also this close, relatively, to the largest value; only with a random start and no restart.
        generator: For the added directions; seed 0 when left out.

    Raises:
        InputError: If an argument is out of range, more eigenvalues are wanted than there are, or the start is zero or not finite.
    """
    wanted = _check(operator.dim, num_largest, num_smallest, tol, max_products, max_basis, random_length, level)
    if high_tol is not None:
        check_number("high_tol", high_tol, above=0.0)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    basis = LanczosBasis(operator, start, min(max(max_basis, 2 * wanted + 4), operator.dim))
    before = operator.num_products
    settled, has_closed = np.empty(0), False
    least = _least_part(operator.dim, random_length, level)
    high = math.inf
    with operator.held():
        while True:
            finite = basis.extend()
            used = operator.num_products - before
            ritz = basis.ritz(num_largest, num_smallest) if finite else None
            if ritz is not None:
                high = min(high, basis.upper_limit(least))
            if ritz is None or used >= max_products or basis.is_whole:
                break
            if basis.is_closed:
                if wanted == 1 or (len(settled) == wanted and np.allclose(settled, ritz.values, rtol=tol)):
                    break
                settled, has_closed = ritz.values, True
                basis.add(operator.random_vector(generator))
            elif used >= NUM_FRESH and not has_closed and _found(ritz, wanted, tol) and _near(ritz, high, high_tol):
                break
            if basis.is_full:
                basis.restart(ritz.keep)
    if ritz is None:
        return _not_finite(start, used)
    return EigenPairs(
        values=tuple(ritz.values.tolist()),
        vectors=basis.vectors(ritz.coordinates),
        residuals=tuple(ritz.residuals.tolist()),
        errors=tuple(ritz.errors.tolist()),
        converged=_found(ritz, wanted, tol) and _near(ritz, high, high_tol),
        high=max(high, float(ritz.values[0])) if num_largest else math.inf,
        num_products=used,
    )


def krylov(operator: CurvatureOperator, start: Float[Tensor, " D"], num_steps: int) -> Array | None:
    """The operator seen from within the first ``num_steps`` Krylov vectors of a start; None where a product is not finite.

    Smaller where the operator leads no further. The first coordinate is that along the start.
    """
    basis = LanczosBasis(operator, start, min(num_steps, operator.dim))
    with operator.held():
        while not basis.is_full:
            if not basis.extend():
                return None
            if basis.is_closed:
                break
    return basis.matrix


def _found(ritz: Ritz, wanted: int, tol: float) -> bool:
    floor = 1e-12 * ritz.scale
    return len(ritz.values) == wanted and bool((ritz.errors <= np.maximum(tol * np.abs(ritz.values), floor)).all())


def _near(ritz: Ritz, high: float, high_tol: float | None) -> bool:
    return high_tol is None or bool(high - ritz.values[0] <= max(high_tol * abs(ritz.values[0]), 1e-12 * ritz.scale))


def _least_part(dim: int, random_length: float, level: float) -> float:
    """What a uniformly random direction has of a given one, at least, with probability ``level``, times its length."""
    if random_length == 0.0 or dim == 1:
        return random_length
    from scipy.special import betaincinv

    return random_length * math.sqrt(float(betaincinv(0.5, 0.5 * (dim - 1), 1 - level)))


def _not_finite(start: Tensor, used: int) -> EigenPairs:
    return EigenPairs(
        values=(math.nan,),
        vectors=torch.full_like(start, math.nan)[None],
        residuals=(math.nan,),
        errors=(math.nan,),
        converged=False,
        high=math.nan,
        num_products=used,
    )


def _check(
    dim: int,
    num_largest: int,
    num_smallest: int,
    tol: float,
    max_products: int,
    max_basis: int,
    random_length: float,
    level: float,
) -> int:
    check_int("num_largest", num_largest, at_least=0)
    check_int("num_smallest", num_smallest, at_least=0)
    wanted = num_largest + num_smallest
    if not 1 <= wanted <= dim:
        raise InputError(
            f"num_largest + num_smallest must be between 1 and the {dim} parameters, got {num_largest} + {num_smallest}"
        )
    check_number("tol", tol, above=0.0, below=1.0)
    check_int("max_products", max_products, at_least=1)
    check_int("max_basis", max_basis, at_least=2)
    check_number("random_length", random_length, at_least=0.0, at_most=1.0)
    check_number("level", level, above=0.0, below=1.0)
    return wanted
