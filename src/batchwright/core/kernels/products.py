"""Kernels of the inner product: linear, and polynomial as in the kernel inception distance.

Source: Binkowski et al. (2018), arXiv:1801.01401, section 4 (cubic kernel of KID).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.kernels.kernel import Kernel, Slopes
from batchwright.core.kernels.pairs import Pairs


@dataclass(frozen=True, slots=True)
class Linear(Kernel):
    """``k(a, b) = <a, b>``: the squared MMD is the squared distance of the means. Added to another kernel it makes it "dot-added"."""

    of_product: ClassVar[bool] = True

    def values(self, pairs: Pairs) -> Tensor:
        """``k`` of each pair."""
        return pairs.product

    def slopes(self, pairs: Pairs) -> Slopes:
        """``k`` and its derivative, 1."""
        return Slopes(values=pairs.product, by_distance=None, by_product=pairs.product.new_ones(pairs.product.shape))


@dataclass(frozen=True, slots=True)
class Polynomial(Kernel):
    """``k(a, b) = (scale <a, b> + offset)^degree``; at the defaults the cubic kernel of KID, ``(<a, b> / h + 1)^3``.

    Attributes:
        degree: Power, at least 1.
        scale: Factor of the inner product; 1 over the dimension where left out.
        offset: At least 0.

    Example:
        >>> Polynomial().gram(torch.ones(1, 2), torch.ones(1, 2)).item()
        8.0
    """

    of_product: ClassVar[bool] = True

    degree: int = 3
    scale: float | None = None
    offset: float = 1.0

    def __post_init__(self) -> None:
        check_int("degree", self.degree, at_least=1)
        check_number("offset", self.offset, at_least=0.0)
        if self.scale is not None:
            check_number("scale", self.scale, above=0.0)

    def values(self, pairs: Pairs) -> Tensor:
        """``k`` of each pair."""
        return (pairs.product * self._scale(pairs) + self.offset) ** self.degree

    def slopes(self, pairs: Pairs) -> Slopes:
        """``k`` and its derivative by the inner product."""
        scale = self._scale(pairs)
        base = pairs.product.mul_(scale).add_(self.offset)
        below = base ** (self.degree - 1)
        return Slopes(values=below * base, by_distance=None, by_product=below.mul_(self.degree * scale))

    def _scale(self, pairs: Pairs) -> float:
        return 1 / pairs.dim if self.scale is None else self.scale
