"""Stationary kernels with a length scale for each axis: squared exponential and Matérn.

Source: Rasmussen & Williams (2006), *Gaussian Processes for Machine Learning*, eqs. (4.9), (4.14), (4.17).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_choice, check_number
from batchwright.core.errors import InputError

KERNELS = ("matern", "se")
SMOOTHNESSES = (0.5, 1.5, 2.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """``variance * profile(r)`` with ``r² = Σ_j ((x_j − y_j) / lengthscales_j)²``.

    Attributes:
        name: ``se``, ``exp(−r²/2)``; or ``matern``.
        lengthscales: One an axis, in units of the axis; a single one is taken for every axis.
        variance: ``k(x, x)``, in squared units of the function.
        nu: Smoothness of ``matern``: 0.5, 1.5 or 2.5. ``se`` does not look at it.

    Raises:
        InputError: If a name or number breaks these rules.
    """

    name: str = "se"
    lengthscales: tuple[float, ...] = (1.0,)
    variance: float = 1.0
    nu: float = 2.5

    def __post_init__(self) -> None:
        check_choice("name", self.name, KERNELS)
        check_number("variance", self.variance, above=0.0)
        if not self.lengthscales:
            raise InputError("lengthscales must hold at least one number, got none; give one for every axis")
        for each in self.lengthscales:
            check_number("lengthscales", each, above=0.0)
        if self.name == "matern" and self.nu not in SMOOTHNESSES:
            raise InputError(f"nu must be one of 0.5, 1.5, 2.5, got {self.nu!r}; other orders have no closed form here")

    def scaled(self, points: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The points over the length scales.

        Raises:
            InputError: If there are neither one nor ``D`` length scales.
        """
        if len(self.lengthscales) not in (1, points.shape[1]):
            raise InputError(
                f"lengthscales must hold 1 or {points.shape[1]} numbers for points of {points.shape[1]} axes, "
                f"got {len(self.lengthscales)}"
            )
        return points / torch.tensor(self.lengthscales, dtype=points.dtype, device=points.device)

    def __call__(self, left: Float[Tensor, "N D"], right: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
        """The matrix of ``k(left_i, right_j)``."""
        # Only a kernel with a kink at zero needs the exact distance of near points.
        exact = self.name == "matern" and self.nu == 0.5
        return self.of_sq_distance(
            (sq_distances if exact else fast_sq_distances)(self.scaled(left), self.scaled(right))
        )

    def of_sq_distance(self, sq: Tensor) -> Tensor:
        """``k`` from ``r²``; in units of the variance of the kernel."""
        return self.variance * profile(self.name, self.nu, sq)


def sq_distances(left: Float[Tensor, "N D"], right: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """Squared Euclidean distances, summed axis by axis.

    The expansion of the square would be faster, but loses the digits of near points, whose root a Matérn kernel takes.
    """
    total = torch.zeros(len(left), len(right), dtype=left.dtype, device=left.device)
    for a, b in zip(left.T, right.T, strict=True):
        gap = a[:, None] - b[None, :]
        total.addcmul_(gap, gap)
    return total


def fast_sq_distances(left: Float[Tensor, "N D"], right: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """Squared Euclidean distances by the expansion of the square about the middle of ``right``, to 1e-15 of its extent squared."""
    middle = right.mean(0) if len(right) else right.sum(0)
    left, right = left - middle, right - middle
    sq = torch.addmm(right.square().sum(1)[None, :], left, right.T, alpha=-2).add_(left.square().sum(1)[:, None])
    return sq.clamp_min_(0)


def profile(name: str, nu: float, sq: Tensor) -> Tensor:
    """The kernel of variance 1 from ``r²``."""
    if name == "se":
        return torch.exp(-0.5 * sq)
    root = torch.sqrt(2 * nu * sq)
    if nu == 0.5:
        return torch.exp(-root)
    if nu == 1.5:
        return (1 + root) * torch.exp(-root)
    return (1 + root + root.square() / 3) * torch.exp(-root)


def information_exponent(name: str, nu: float, dim: int) -> float:
    """Exponent ``c`` of the maximum information gain ``T^c`` up to logarithms: 0 for ``se``, ``d/(2ν + d)`` for ``matern``.

    Source: Vakili, Khezeli, Picheny (2021), arXiv:2009.06966.
    """
    check_choice("kernel", name, KERNELS)
    if name == "se":
        return 0.0
    check_number("nu", nu, above=0.0)
    return dim / (2 * nu + dim)


def default_lengthscale(dim: int) -> float:
    """A length scale on the unit cube that grows as distances there do, ``0.25 √D``; for the round that has no data yet."""
    return 0.25 * math.sqrt(dim)
