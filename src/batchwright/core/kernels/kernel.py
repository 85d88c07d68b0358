"""What a kernel is: a function of the squared distance and the inner product of two points, which can be added and scaled.

Written in these two, every sum over pairs of points costs matrix products and elementwise work, and its gradient too:
``d k(a, b) / d a = 2 k_d (a - b) + k_p b`` with ``k_d`` and ``k_p`` the derivatives by squared distance and by inner product.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.core.kernels.pairs import Pairs, pairs_of


@dataclass(frozen=True, slots=True)
class Slopes:
    """Values of a kernel with its two derivatives; None where one is zero everywhere, or was not asked for.

    Each is a tensor of its own, which the caller may overwrite.

    Attributes:
        values: ``k``.
        by_distance: Derivative by the squared distance.
        by_product: Derivative by the inner product.
    """

    values: Tensor
    by_distance: Tensor | None = None
    by_product: Tensor | None = None


class Kernel(ABC):
    """A positive definite function of two points.

    A kernel of one's own defines `values` and says with the two class attributes what it is a function of; slopes then come from
    autograd. ``a + b`` and ``2.0 * a`` are kernels.
    """

    of_distance: ClassVar[bool] = False
    of_product: ClassVar[bool] = False

    @abstractmethod
    def values(self, pairs: Pairs) -> Tensor:
        """``k`` of each pair, twice differentiable by autograd, also at distance zero."""

    def slopes(self, pairs: Pairs) -> Slopes:
        """``k`` with its derivatives, outside of autograd; may overwrite ``pairs``."""
        uses_distance, uses_product = uses(self)
        wanted = [
            tensor
            for tensor, used in ((pairs.sq_distance, uses_distance), (pairs.product, uses_product))
            if used and tensor.numel()
        ]
        if not wanted:
            empty = torch.zeros_like(pairs.sq_distance if uses_distance else pairs.product)
            return Slopes(values=empty, by_distance=empty, by_product=None)
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in wanted]
            given = iter(leaves)
            inside = Pairs(
                sq_distance=next(given) if uses_distance else pairs.sq_distance,
                product=next(given) if uses_product else pairs.product,
                dim=pairs.dim,
            )
            values = self.values(inside)
            # A kernel may give back its argument, and the derivative of a sum is one number seen many times.
            found = iter([grad.contiguous() for grad in torch.autograd.grad(values.sum(), leaves)])
        return Slopes(
            values=values.detach().clone(),
            by_distance=next(found) if uses_distance else None,
            by_product=next(found) if uses_product else None,
        )

    def gram(self, x: Float[Tensor, "M h"], y: Float[Tensor, "N h"] | None = None) -> Float[Tensor, "M N"]:
        """``k(x_i, y_j)`` of all pairs, twice differentiable; ``y`` is ``x`` where left out.

        Example:
            >>> from batchwright.core.kernels import GaussianMixture
            >>> GaussianMixture(stds=(1.0,)).gram(torch.zeros(1, 2), torch.zeros(3, 2)).tolist()
            [[1.0, 1.0, 1.0]]
        """
        of_distance, of_product = uses(self)
        return self.values(pairs_of(x, y, distance=of_distance, product=of_product))

    def paired(self, x: Float[Tensor, "M h"], y: Float[Tensor, "M h"]) -> Float[Tensor, " M"]:
        """``k(x_i, y_i)``, row by row."""
        return self.values(Pairs(sq_distance=(x - y).square().sum(dim=1), product=(x * y).sum(dim=1), dim=x.shape[1]))

    def diagonal(self, x: Float[Tensor, "M h"]) -> Float[Tensor, " M"]:
        """``k(x_i, x_i)``."""
        return self.paired(x, x)

    def __add__(self, other: "Kernel") -> "Kernel":
        if not isinstance(other, Kernel):
            return NotImplemented
        return WeightedSum(terms=(*_terms(self), *_terms(other)))

    def __mul__(self, weight: float) -> "Kernel":
        if not isinstance(weight, int | float):
            return NotImplemented
        return WeightedSum(terms=tuple((weight * old, kernel) for old, kernel in _terms(self)))

    __rmul__ = __mul__


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedSum(Kernel):
    """``sum_t w_t k_t(a, b)``; written ``0.5 * a + b``.

    Attributes:
        terms: Pairs of a positive weight and a kernel.
    """

    terms: tuple[tuple[float, Kernel], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise InputError("terms must hold at least one kernel, got none")
        for weight, _ in self.terms:
            check_number("weight of a kernel", weight, above=0.0, way_out="a difference of kernels is not a kernel")

    def values(self, pairs: Pairs) -> Tensor:
        """``k`` of each pair."""
        (weight, kernel), *others = self.terms
        total = weight * kernel.values(pairs)
        for weight, kernel in others:
            total = total + weight * kernel.values(pairs)
        return total

    def slopes(self, pairs: Pairs) -> Slopes:
        """The sums of values and slopes."""
        parts: list[tuple[float, Slopes]] = []
        for number, (weight, kernel) in enumerate(self.terms):
            last = number == len(self.terms) - 1
            own = (
                pairs
                if last
                else Pairs(sq_distance=pairs.sq_distance.clone(), product=pairs.product.clone(), dim=pairs.dim)
            )
            parts.append((weight, kernel.slopes(own)))
        return Slopes(
            values=_sum([(weight, part.values) for weight, part in parts]),
            by_distance=_sum_some([(weight, part.by_distance) for weight, part in parts]),
            by_product=_sum_some([(weight, part.by_product) for weight, part in parts]),
        )


def uses(kernel: Kernel) -> tuple[bool, bool]:
    """Whether a kernel asks for squared distances, and whether for inner products."""
    if isinstance(kernel, WeightedSum):
        inner = [uses(term) for _, term in kernel.terms]
        return any(of_distance for of_distance, _ in inner), any(of_product for _, of_product in inner)
    return kernel.of_distance, kernel.of_product


def _terms(kernel: Kernel) -> tuple[tuple[float, Kernel], ...]:
    return kernel.terms if isinstance(kernel, WeightedSum) else ((1.0, kernel),)


def _sum(parts: list[tuple[float, Tensor]]) -> Tensor:
    (weight, first), *others = parts
    total = first * weight
    for weight, part in others:
        total.add_(part, alpha=weight)
    return total


def _sum_some(parts: list[tuple[float, Tensor | None]]) -> Tensor | None:
    kept = [(weight, part) for weight, part in parts if part is not None]
    return _sum(kept) if kept else None
