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
from batchwright.measure.curvature.operator import CurvatureOperator
from batchwright.measure.curvature.ritz_error import NUM_FRESH, ritz_errors

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
    basis = _Basis(operator, start, min(max(max_basis, 2 * wanted + 4), operator.dim))
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
    basis = _Basis(operator, start, min(num_steps, operator.dim))
    with operator.held():
        while not basis.is_full:
            if not basis.extend():
                return None
            if basis.is_closed:
                break
    return basis.matrix


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Ritz:
    """Wanted Ritz pairs, and all of them that a restart keeps."""

    values: Array
    coordinates: Array
    residuals: Array
    errors: Array
    scale: float
    keep: Array


class _Basis:
    """Orthonormal vectors ``V`` with ``T = V' A V``; the residual ``A V - V T`` lies along one further vector."""

    def __init__(self, operator: CurvatureOperator, start: Tensor, capacity: int) -> None:
        self._operator = operator
        norm = float(torch.linalg.vector_norm(start.double()))
        if start.shape != (operator.dim,) or not math.isfinite(norm) or norm == 0:
            raise InputError(
                f"start must be a finite vector of {operator.dim} numbers, not all zero, "
                f"got shape {tuple(start.shape)} and norm {norm:g}"
            )
        self._capacity = capacity
        self._rows = torch.empty(min(capacity + 1, 9), operator.dim, dtype=operator.dtype, device=operator.device)
        self._rows[0] = start.to(self._rows) / norm
        self._size = 0  # vectors whose products are known; the next one waits behind them
        self._matrix = np.zeros((capacity, capacity))
        self._next_norm = 0.0
        self._log_scale = 0.0  # logarithm of the product of all residual norms so far
        self._is_krylov = True
        self._num_fresh = 0  # Lanczos steps since the start or the last change of the basis

    @property
    def matrix(self) -> Array:
        """``T``."""
        return self._matrix[: self._size, : self._size]

    @property
    def is_full(self) -> bool:
        """Whether no further product fits."""
        return self._size >= self._capacity

    @property
    def is_whole(self) -> bool:
        """Whether the basis spans the space."""
        return self._size >= self._operator.dim

    @property
    def is_closed(self) -> bool:
        """Whether the operator leads nowhere else, up to rounding."""
        return self._next_norm == 0.0

    def extend(self) -> bool:
        """Take in the product with the waiting vector; false when it is not finite."""
        size = self._size + 1
        if len(self._rows) <= size:
            more = min(self._capacity + 1, 2 * len(self._rows)) - len(self._rows)
            self._rows = torch.cat([self._rows, self._rows.new_empty(max(more, 1), self._rows.shape[1])])
        product = self._operator.matvec(self._rows[size - 1])
        length = float(torch.linalg.vector_norm(product.double()))
        if not math.isfinite(length):
            return False
        rest, column = self._orthogonal(product, size)
        self._matrix[:size, size - 1] = self._matrix[size - 1, :size] = column
        self._size = size
        self._num_fresh += 1
        self._wait(rest, scale=max(length, float(np.abs(self._matrix[:size, :size]).max())))
        return True

    def add(self, direction: Tensor) -> None:
        """Let a new direction wait, in place of a vanished residual."""
        self._is_krylov = False
        self._num_fresh = 0
        rest, _ = self._orthogonal(direction / torch.linalg.vector_norm(direction), self._size)
        self._rows[self._size] = rest / torch.linalg.vector_norm(rest)
        self._next_norm = 0.0

    def ritz(self, num_largest: int, num_smallest: int) -> _Ritz:
        """The wanted Ritz pairs, as many as the basis has."""
        size = self._size
        values, coordinates = np.linalg.eigh(self._matrix[:size, :size])
        values, coordinates = values[::-1], coordinates[:, ::-1]
        residuals = np.abs(self._next_norm * coordinates[-1])
        errors = ritz_errors(values, residuals, self.matrix, self._next_norm, self._num_fresh)
        top = min(num_largest, size)
        chosen = np.array([*range(top), *range(max(top, size - num_smallest), size)], dtype=int)
        spare = max(1, (self._capacity - len(chosen)) // 3)
        kept = sorted({*range(min(num_largest + (spare if num_largest else 0), size)), *chosen.tolist()})
        if num_smallest:
            kept = sorted({*kept, *range(max(0, size - num_smallest - spare), size)})
        return _Ritz(
            values=values[chosen],
            coordinates=coordinates[:, chosen],
            residuals=residuals[chosen],
            errors=errors[chosen],
            scale=float(np.abs(values).max()),
            keep=coordinates[:, kept[: self._capacity - 2]],
        )

    def upper_limit(self, least: float) -> float:
        """Upper limit of the largest eigenvalue if the first vector's part of its eigenvector is at least ``least``.

        The waiting vector is ``p(A) v`` of length 1, with ``p(t) = prod (t - ritz value) / prod (residual norm)``. So no
        eigenvalue ``t`` has ``p(t) > 1 / least``, and above the Ritz values ``p`` only grows.
        """
        values = np.linalg.eigvalsh(self.matrix)
        top = float(values[-1])
        if self.is_whole:
            return top
        if not self._is_krylov or least == 0.0:
            return math.inf
        if self.is_closed:
            return top
        aim = self._log_scale - math.log(least)
        below, above = 0.0, 1.0  # in residual norms above the top value
        unit = self._next_norm

        def reached(distance: float) -> bool:
            return float(np.log(np.maximum(top + distance * unit - values, 1e-300)).sum()) >= aim

        while not reached(above):
            above *= 2
        for _ in range(60):
            middle = 0.5 * (below + above)
            below, above = (below, middle) if reached(middle) else (middle, above)
        return top + above * unit

    def restart(self, keep: Array) -> None:
        """Shrink the basis to the Ritz vectors with these coordinates; the waiting vector goes on waiting."""
        size, kept = self._size, keep.shape[1]
        self._is_krylov = False
        self._num_fresh = 0
        waiting = self._rows[size].clone()
        values = np.einsum("ik,ij,jk->k", keep, self._matrix[:size, :size], keep)
        self._rows[:kept] = self.vectors(keep)
        self._rows[kept] = waiting
        self._matrix[:] = 0.0
        # The couplings to the waiting vector come out of its product, as those to any vector.
        np.fill_diagonal(self._matrix[:kept, :kept], values)
        self._size = kept

    def vectors(self, coordinates: Array) -> Tensor:
        """Combinations of the basis vectors, one a row."""
        weights = torch.as_tensor(coordinates.copy(), dtype=self._rows.dtype, device=self._rows.device)
        return weights.T @ self._rows[: self._size]

    def _orthogonal(self, vector: Tensor, size: int) -> tuple[Tensor, Array]:
        """What of a vector is orthogonal to the first ``size`` rows, and its coordinates along them; two rounds are enough."""
        rows = self._rows[:size]
        along = rows @ vector
        vector = vector - rows.T @ along
        again = rows @ vector
        vector -= rows.T @ again
        return vector, (along.double() + again.double()).cpu().numpy()

    def _wait(self, rest: Tensor, scale: float) -> None:
        norm = float(torch.linalg.vector_norm(rest.double()))
        rounding = torch.finfo(rest.dtype).eps * 64 * scale
        self._next_norm = norm if norm > rounding and not self.is_whole else 0.0
        if self._next_norm:
            self._log_scale += math.log(norm)
            self._rows[self._size] = rest / norm


def _found(ritz: _Ritz, wanted: int, tol: float) -> bool:
    floor = 1e-12 * ritz.scale
    return len(ritz.values) == wanted and bool((ritz.errors <= np.maximum(tol * np.abs(ritz.values), floor)).all())


def _near(ritz: _Ritz, high: float, high_tol: float | None) -> bool:
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
