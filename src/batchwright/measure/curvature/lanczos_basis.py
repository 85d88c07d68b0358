"""The basis of a Lanczos search: what the operator is within it, and what lies outside.

Sources: Parlett (1998), "The Symmetric Eigenvalue Problem", chapter 13 (reorthogonalisation); Wu & Simon (2000), "Thick-restart
Lanczos method for large symmetric eigenvalue problems"; van Dorsselaer, Hochstenbach & van der Vorst (2000), "Computing probabilistic
bounds for extreme eigenvalues of symmetric matrices with the Lanczos method", section 3 (the upper limit).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchwright.core.errors import InputError
from batchwright.measure.curvature.operator import CurvatureOperator
from batchwright.measure.curvature.ritz_error import ritz_errors

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ritz:
    """Wanted Ritz pairs, and all of them that a restart keeps."""

    values: Array
    coordinates: Array
    residuals: Array
    errors: Array
    scale: float
    keep: Array


class LanczosBasis:
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

    def ritz(self, num_largest: int, num_smallest: int) -> Ritz:
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
        return Ritz(
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
