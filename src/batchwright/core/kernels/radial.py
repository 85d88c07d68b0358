"""Rational quadratic and Laplace kernels: functions of the distance with heavier tails than a Gaussian.

Source: Binkowski et al. (2018), *Demystifying MMD GANs*, arXiv:1801.01401, section 3 (rational quadratic).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.core.kernels.kernel import Kernel, Slopes
from batchwright.core.kernels.pairs import Pairs

ALPHAS = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class RationalQuadratic(Kernel):
    """``k(a, b) = sum_alpha (1 + ||a - b||^2 / (2 alpha))^(-alpha)``, weight 1 each.

    Attributes:
        alphas: Exponents. Two sets go around: (0.2, 0.5, 1, 2, 5), the default, and (0.1, 1, 10).

    Example:
        >>> RationalQuadratic(alphas=(1.0,)).gram(torch.zeros(1, 1), torch.ones(1, 1)).item()
        0.6666666865348816
    """

    of_distance: ClassVar[bool] = True

    alphas: tuple[float, ...] = ALPHAS

    def __post_init__(self) -> None:
        if not self.alphas:
            raise InputError("alphas must hold at least one exponent, got none")
        for alpha in self.alphas:
            check_number("alpha", alpha, above=0.0)

    def values(self, pairs: Pairs) -> Tensor:
        """``k`` of each pair."""
        parts = [torch.exp(-alpha * torch.log1p(pairs.sq_distance / (2 * alpha))) for alpha in self.alphas]
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]

    def slopes(self, pairs: Pairs) -> Slopes:
        """``k`` and its derivative, each term's being ``-term / (2 + d^2 / alpha)``."""
        values = torch.zeros_like(pairs.sq_distance)
        slope = torch.zeros_like(pairs.sq_distance)
        for alpha in self.alphas:
            base = pairs.sq_distance / (2 * alpha)
            term = base.log1p().mul_(-alpha).exp_()
            values.add_(term)
            slope.addcdiv_(term, base.add_(1.0), value=-0.5)
        return Slopes(values=values, by_distance=slope, by_product=None)


@dataclass(frozen=True, slots=True)
class Laplace(Kernel):
    """``k(a, b) = sum_s exp(-||a - b|| / s)`` with the Euclidean norm, weight 1 each.

    Its gradient jumps at distance zero and is taken as zero there. The root makes it the least exact kernel in float32:
    two equal points ``c`` away from the mean of all can come out ``3e-4 c`` apart.

    Attributes:
        scales: Lengths, in the unit of the points.
    """

    of_distance: ClassVar[bool] = True

    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.scales:
            raise InputError("scales must hold at least one length, got none")
        for scale in self.scales:
            check_number("scale", scale, above=0.0)

    def values(self, pairs: Pairs) -> Tensor:
        """``k`` of each pair."""
        # The root of zero has an infinite slope, and infinity times zero is not a number: so no zero goes in.
        apart = pairs.sq_distance > 0
        distance = torch.where(apart, torch.where(apart, pairs.sq_distance, 1.0).sqrt(), 0.0)
        parts = [torch.exp(-distance / scale) for scale in self.scales]
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
