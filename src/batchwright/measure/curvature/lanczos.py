"""Outermost eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation and thick restarts.

Sources: Parlett (1998), "The Symmetric Eigenvalue Problem", chapters 11 and 13 (error bounds, reorthogonalisation); Wu & Simon (2000),
"Thick-restart Lanczos method for large symmetric eigenvalue problems".
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

Array = NDArray[np.float64]
MAX_BASIS = 48


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EigenPairs:
    """Outermost eigenvalues of a symmetric operator, the largest first.

    Attributes:
        values: The largest eigenvalues in falling order, then the smallest in falling order.
        vectors: Their eigenvectors of unit length, one a row.
        residuals: ``||A v - value v||``, absolute, of each.
        errors: Estimated error of each value: the smaller of its residual and of ``residual^2 / gap`` to the nearest other value found.
        converged: Whether every error is below the tolerance.
        num_products: Products with the operator.
    """

    values: tuple[float, ...]
    vectors: Float[Tensor, "k D"]
    residuals: tuple[float, ...]
    errors: tuple[float, ...]
    converged: bool
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
    generator: torch.Generator | None = None,
) -> EigenPairs:
    """The algebraically largest and smallest eigenvalues, each to a relative error ``tol``.

    A start without any part of an eigenvector does not find it: mix random numbers into it. Where the vectors reached are closed under the
    operator, a random direction outside them is added until it brings nothing new, so multiple eigenvalues are found as often as they are there.

    Args:
        operator: A symmetric operator of dimension ``D``.
        start: First vector, not zero.
        num_largest: Eigenvalues wanted from the top.
        num_smallest: Eigenvalues wanted from the bottom.
        tol: Estimated error of each value over its size at which it counts as found.
        max_products: Products after which the best so far is returned with ``converged=False``.
        max_basis: Vectors of ``D`` numbers held; beyond them the best are kept and the rest forgotten.
        generator: For the added directions; seed 0 when left out.

    Raises:
        InputError: If an argument is out of range, more eigenvalues are wanted than there are, or the start is zero or not finite.
    """
    wanted = _check(operator.dim, num_largest, num_smallest, tol, max_products, max_basis)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    basis = _Basis(operator, start, min(max(max_basis, 2 * wanted + 4), operator.dim))
    before = operator.num_products
    settled: Array | None = None
    with operator.held():
        while True:
            finite = basis.extend()
            used = operator.num_products - before
            ritz = basis.ritz(num_largest, num_smallest) if finite else None
            if ritz is None or used >= max_products or basis.is_whole:
                break
            if basis.is_closed:
                if wanted == 1 or (settled is not None and np.allclose(settled, ritz.values, rtol=tol)):
                    break
                settled = ritz.values if len(ritz.values) == wanted else None
                basis.add(operator.random_vector(generator))
            elif settled is None and _found(ritz, wanted, tol):
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
        converged=_found(ritz, wanted, tol),
        num_products=used,
    )


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
                f"start must be a finite vector of {operator.dim} numbers, not all zero, got shape {tuple(start.shape)} and norm {norm:g}"
            )
        self._capacity = capacity
        self._rows = torch.empty(min(capacity + 1, 9), operator.dim, dtype=operator.dtype, device=operator.device)
        self._rows[0] = start.to(self._rows) / norm
        self._size = 0  # vectors whose products are known; the next one waits behind them
        self._matrix = np.zeros((capacity, capacity))
        self._next_norm = 0.0

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
        self._wait(rest, scale=max(length, float(np.abs(self._matrix[:size, :size]).max())))
        return True

    def add(self, direction: Tensor) -> None:
        """Let a new direction wait, in place of a vanished residual."""
        rest, _ = self._orthogonal(direction / torch.linalg.vector_norm(direction), self._size)
        self._rows[self._size] = rest / torch.linalg.vector_norm(rest)
        self._next_norm = 0.0

    def ritz(self, num_largest: int, num_smallest: int) -> _Ritz:
        """The wanted Ritz pairs, as many as the basis has."""
        size = self._size
        values, coordinates = np.linalg.eigh(self._matrix[:size, :size])
        values, coordinates = values[::-1], coordinates[:, ::-1]
        residuals = np.abs(self._next_norm * coordinates[-1])
        gaps = np.full(size, 0.0)
        if size > 1:
            steps = -np.diff(values)
            gaps = np.minimum(np.append(steps, np.inf), np.insert(steps, 0, np.inf))
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.where(residuals < gaps, residuals**2 / gaps, residuals)
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

    def restart(self, keep: Array) -> None:
        """Shrink the basis to the Ritz vectors with these coordinates; the waiting vector goes on waiting."""
        size, kept = self._size, keep.shape[1]
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
        rounding = torch.finfo(rest.dtype).eps * 4 * scale
        self._next_norm = norm if norm > rounding and not self.is_whole else 0.0
        if self._next_norm:
            self._rows[self._size] = rest / norm


def _found(ritz: _Ritz, wanted: int, tol: float) -> bool:
    floor = 1e-12 * ritz.scale
    return len(ritz.values) == wanted and bool((ritz.errors <= np.maximum(tol * np.abs(ritz.values), floor)).all())


def _not_finite(start: Tensor, used: int) -> EigenPairs:
    return EigenPairs(
        values=(math.nan,),
        vectors=torch.full_like(start, math.nan)[None],
        residuals=(math.nan,),
        errors=(math.nan,),
        converged=False,
        num_products=used,
    )


def _check(dim: int, num_largest: int, num_smallest: int, tol: float, max_products: int, max_basis: int) -> int:
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
    return wanted
