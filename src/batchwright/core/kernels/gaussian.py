"""Mixture of Gaussian kernels; where each bandwidth is twice the one before, one exponential does for all of them.

Sources: Li et al. (2017), MMD GAN (bandwidths 1, 2, 4, 8, 16 with weight 1 each, as standard deviations); Li, Swersky,
    Zemel (2015), GMMN
(bandwidths as variances, ``exp(-d^2 / (2 s))``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.core.kernels.kernel import Kernel, Slopes
from batchwright.core.kernels.pairs import Pairs

STDS = (1.0, 2.0, 4.0, 8.0, 16.0)
# In float32 a power of an exponential has its relative error times the power: 2^8 of one unit in the last place is 1.5e-5.
LARGEST_POWER = 256


@dataclass(frozen=True, slots=True)
class GaussianMixture(Kernel):
    """``k(a, b) = sum_s w_s exp(-||a - b||^2 / (2 s^2))``: the bandwidths ``s`` are standard deviations.

    The weights are not normalised, so ``k(a, a)`` is their sum: 5 at the defaults, which are those of MMD GAN.

    Attributes:
        stds: Bandwidths, in the unit of the points. Sources that divide by ``2 s`` give variances: use `of_variances`.
        weights: One a bandwidth; 1 each where left out.

    Raises:
        InputError: If a bandwidth or weight is not positive, or their numbers differ.

    Example:
        >>> GaussianMixture(stds=(1.0, 2.0)).diagonal(torch.zeros(1, 3)).item()
        2.0
    """

    of_distance: ClassVar[bool] = True

    stds: tuple[float, ...] = STDS
    weights: tuple[float, ...] | None = None
    _ladder: tuple[tuple[float, float, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.stds:
            raise InputError("stds must hold at least one bandwidth, got none")
        weights = (1.0,) * len(self.stds) if self.weights is None else self.weights
        if len(weights) != len(self.stds):
            raise InputError(
                f"weights must hold one number a bandwidth, got {len(weights)} for {len(self.stds)} bandwidths"
            )
        for std, weight in zip(self.stds, weights, strict=True):
            check_number("std", std, above=0.0)
            check_number("weight", weight, above=0.0)
        object.__setattr__(self, "_ladder", _ladder(self.stds, weights))

    @classmethod
    def of_variances(cls, variances: Sequence[float], weights: tuple[float, ...] | None = None) -> "GaussianMixture":
        """The mixture ``sum_s w_s exp(-||a - b||^2 / (2 s))``, in which a bandwidth is a variance, as in GMMN.

        Example:
            >>> GaussianMixture.of_variances([4.0]).stds
            (2.0,)
        """
        for variance in variances:
            check_number("variance", variance, above=0.0)
        return cls(stds=tuple(math.sqrt(variance) for variance in variances), weights=weights)

    def values(self, pairs: Pairs) -> Tensor:
        """``k`` of each pair."""
        power: Tensor | None = None
        total: Tensor | None = None
        for rate, weight, squarings in self._ladder:
            if power is None or squarings == 0:
                power = torch.exp(pairs.sq_distance * -rate)
            else:
                for _ in range(squarings):
                    power = power.square()
            part = power if weight == 1 else weight * power
            total = part if total is None else total + part
        assert total is not None
        return total

    def slopes(self, pairs: Pairs) -> Slopes:
        """``k`` and its derivative by the squared distance: one pass of a function of each pair, the rest products."""
        power = total = slope = pairs.sq_distance
        for number, (rate, weight, squarings) in enumerate(self._ladder):
            for _ in range(squarings):
                power.mul_(power)
            if not squarings:
                # A new tensor takes longer than the product in it, so the last exponential is made in the place of its argument.
                last = all(later[2] for later in self._ladder[number + 1 :])
                power = (pairs.sq_distance.mul_(-rate) if last else pairs.sq_distance * -rate).exp_()
            if number == 0:
                total, slope = power * weight, power * (-rate * weight)
            else:
                total.add_(power, alpha=weight)
                slope.add_(power, alpha=-rate * weight)
        return Slopes(values=total, by_distance=slope, by_product=None)


def _ladder(stds: tuple[float, ...], weights: tuple[float, ...]) -> tuple[tuple[float, float, int], ...]:
    """``(1 / (2 s^2), weight, squarings)`` from the widest on; 0 squarings: from an exponential of its own.

    Halving a bandwidth takes the fourth power, two squarings; a quarter of the squared bandwidth is four times the rate.
    """
    found: list[tuple[float, float, int]] = []
    power = 1
    for std, weight in sorted(zip(stds, weights, strict=True), reverse=True):
        rate, squarings = 1 / (2 * std**2), 0
        if found:
            steps = math.log2(rate / found[-1][0])
            whole = round(steps)
            if whole >= 1 and abs(steps - whole) < 1e-12 and power * 2**whole <= LARGEST_POWER:
                squarings = whole
        power = power * 2**squarings if squarings else 1
        found.append((rate, weight, squarings))
    return tuple(found)
