"""Linear minimisation oracles: the point of a norm's unit ball that goes farthest against a gradient.

Source: papers-2026, 3.2, for the oracles; Pethick et al. (2025), arXiv:2502.07529, table 2, for the layer-wise sizes
(``scaled``), which make the change of a layer's output alike at all widths.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from batchwright.core.checks import check_number
from batchwright.optim.matrices import as_matrix, matrix_shape
from batchwright.optim.polar import PolarOptions, polar


@dataclass(frozen=True, kw_only=True, slots=True)
class Lmo(ABC):
    """A norm of one parameter with its oracle; the ball ``norm(x) <= 1`` is what the radius of `Scion` multiplies.

    Attributes:
        scaled: Whether the ball has the layer-wise size of its class; without it, the plain unit ball.
    """

    name: ClassVar[str]
    scaled: bool = False

    def __call__(self, gradient: Tensor) -> Tensor:
        """``argmin <gradient, d>`` over the unit ball; 0 for what is 0 of a gradient."""
        return self._direction(gradient).mul_(-self.size(gradient))

    def norm(self, value: Tensor) -> Tensor:
        """The norm, a scalar of float32 or wider."""
        wide = value if value.dtype == torch.float64 else value.float()
        return self._plain_norm(wide) / self.size(value)

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """``max <gradient, d>`` over the unit ball: what one step against the gradient gains, to first order."""
        wide = gradient if gradient.dtype == torch.float64 else gradient.float()
        return self._plain_dual_norm(wide) * self.size(gradient)

    def size(self, value: Tensor) -> float:
        """Length of the ball in the plain norm."""
        return self._size(value) if self.scaled and value.numel() else 1.0

    @abstractmethod
    def _direction(self, gradient: Tensor) -> Tensor:
        """The point of the plain ball that goes farthest along the gradient; a tensor of its own."""

    @abstractmethod
    def _plain_norm(self, value: Tensor) -> Tensor: ...

    @abstractmethod
    def _plain_dual_norm(self, gradient: Tensor) -> Tensor: ...

    @abstractmethod
    def _size(self, value: Tensor) -> float: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Euclidean(Lmo):
    """``||x||_2`` over all entries; scaled: root mean square 1, a length of ``sqrt(numel)``."""

    name: ClassVar[str] = "euclidean"

    def _direction(self, gradient: Tensor) -> Tensor:
        return _over(gradient, _length(_safe(gradient)), gradient)

    def _plain_norm(self, value: Tensor) -> Tensor:
        return _length(value)

    def _plain_dual_norm(self, gradient: Tensor) -> Tensor:
        return _length(gradient)

    def _size(self, value: Tensor) -> float:
        return math.sqrt(value.numel())


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign(Lmo):
    """``max |x|``; scaled: ``1 / n`` for ``n`` inputs of a matrix, 1 for a vector."""

    name: ClassVar[str] = "sign"

    def _direction(self, gradient: Tensor) -> Tensor:
        return torch.sign(gradient)

    def _plain_norm(self, value: Tensor) -> Tensor:
        return value.abs().amax()

    def _plain_dual_norm(self, gradient: Tensor) -> Tensor:
        return gradient.abs().sum()

    def _size(self, value: Tensor) -> float:
        return 1.0 if value.ndim < 2 else 1 / matrix_shape(value)[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectral(Lmo):
    """The largest singular value; scaled: ``sqrt(m/n)``, over the places of a kernel once more (m outputs, n inputs).

    The polar factor is near the exact one by its options. It is divided by the largest singular value that they leave, so the
    point is never outside the ball.

    Attributes:
        polar: How it is found.
    """

    name: ClassVar[str] = "spectral"
    polar: PolarOptions = field(default_factory=lambda: PolarOptions(tolerance=0.05))

    def _direction(self, gradient: Tensor) -> Tensor:
        matrix = as_matrix(gradient)
        largest = self.polar.largest_for(*matrix_shape(gradient), matrix.dtype, matrix.device)
        return polar(matrix, self.polar).reshape(gradient.shape).div(largest)

    def _plain_norm(self, value: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(as_matrix(value))
        return values.amax()

    def _plain_dual_norm(self, gradient: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(as_matrix(gradient))
        return values.sum()

    def _size(self, value: Tensor) -> float:
        places = math.prod(value.shape[2:])
        return math.sqrt(value.shape[0] / value.shape[1]) / places


@dataclass(frozen=True, kw_only=True, slots=True)
class RowNorm(Lmo):
    """The longest row; scaled: ``1 / sqrt(n)``."""

    name: ClassVar[str] = "row"

    def _direction(self, gradient: Tensor) -> Tensor:
        matrix = as_matrix(gradient)
        lengths = _length(_safe(matrix, 1), 1, keepdim=True)
        return _over(matrix, lengths, matrix, dim=1).reshape(gradient.shape)

    def _plain_norm(self, value: Tensor) -> Tensor:
        return _length(as_matrix(value), 1).amax()

    def _plain_dual_norm(self, gradient: Tensor) -> Tensor:
        return _length(as_matrix(gradient), 1).sum()

    def _size(self, value: Tensor) -> float:
        return 1 / math.sqrt(matrix_shape(value)[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnNorm(Lmo):
    """The longest column; scaled: ``sqrt(m)``, root mean square 1 of what a one-hot input gives."""

    name: ClassVar[str] = "column"

    def _direction(self, gradient: Tensor) -> Tensor:
        matrix = as_matrix(gradient)
        lengths = _length(_safe(matrix, 0), 0, keepdim=True)
        return _over(matrix, lengths, matrix, dim=0).reshape(gradient.shape)

    def _plain_norm(self, value: Tensor) -> Tensor:
        return _length(as_matrix(value), 0).amax()

    def _plain_dual_norm(self, gradient: Tensor) -> Tensor:
        return _length(as_matrix(gradient), 0).sum()

    def _size(self, value: Tensor) -> float:
        return math.sqrt(matrix_shape(value)[0])


NORMS: Mapping[str, type[Lmo]] = {kind.name: kind for kind in (Euclidean, Sign, Spectral, RowNorm, ColumnNorm)}


@torch.no_grad()
def init_in_ball(
    value: Tensor, lmo: Lmo, radius: float, *, part: float = 0.5, generator: torch.Generator | None = None
) -> None:
    """Fill a parameter with a random point of norm ``part * radius``: Gaussian noise, scaled to it; vectors with zeros.

    The convergence proof asks for a start in half the ball, ``2 ||x_0|| <= radius`` (papers-2026, 3.4).
    """
    check_number("radius", radius, above=0.0)
    check_number("part", part, at_least=0.0, at_most=1.0)
    if value.ndim < 2:
        value.zero_()
        return
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(
        device=value.device, dtype=value.dtype
    )
    length = float(lmo.norm(noise))
    # A hair inside, so that rounding does not leave the ball.
    value.copy_(noise * (part * radius * (1 - 1e-6) / length) if length > 0 else noise.zero_())


def _length(tensor: Tensor, dim: int | None = None, *, keepdim: bool = False) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(tensor, dim=dim, keepdim=keepdim)
    return found


def _safe(tensor: Tensor, dim: int | None = None) -> Tensor:
    """Over its largest entry, so that its squares neither overflow nor vanish."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    largest = wide.abs().amax() if dim is None else wide.abs().amax(dim=dim, keepdim=True)
    return wide / torch.where(largest > 0, largest, 1.0)


def _over(tensor: Tensor, length: Tensor, like: Tensor, dim: int | None = None) -> Tensor:
    """``tensor`` over its length, which is that of `_safe`; zeros where it is zero."""
    found: Tensor = (_safe(tensor, dim) / torch.where(length > 0, length, 1.0)).to(like.dtype)
    return found
