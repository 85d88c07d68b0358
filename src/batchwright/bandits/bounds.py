"""Upper and lower confidence bounds on the function, from the rounds so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.bandits.dense_posterior import DensePosterior


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One posterior with its width.

    Attributes:
        posterior: Of one round's values, or of all.
        root_beta: ``√β``.
        corruption: Sum of the absolute changes that the values behind the posterior may have suffered.
        floor: The best lower bound that was seen with it; a point whose upper bound is below cannot be the optimum.
        round: Whose values are behind it; None for those of all.
    """

    posterior: DensePosterior
    root_beta: float
    corruption: float = 0.0
    floor: float = -math.inf
    round: int | None = None

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Upper and lower bound at points ``(M, D)``."""
        mean, variance = self.posterior.at(points)
        width = self.root_beta * variance.sqrt()
        if self.corruption:
            # The mean is linear in the values, so a budget on their changes moves it by its largest weight at most.
            width = width + self.corruption * self.posterior.largest_weight(points)
        return mean + width, mean - width


def tightest(bounds: Sequence[Bound], points: Tensor) -> tuple[Tensor, Tensor]:
    """The least upper and the greatest lower bound at points; all of them hold at once, by the union in their widths."""
    upper = torch.full((len(points),), math.inf, dtype=torch.float64, device=points.device)
    lower = torch.full_like(upper, -math.inf)
    for bound in bounds:
        # In blocks, so that the cross-covariances stay small.
        parts = [bound.at(block) for block in points.split(max(1, 2**23 // max(1, len(bound.posterior.points))))]
        upper = torch.minimum(upper, torch.cat([high for high, _ in parts]))
        lower = torch.maximum(lower, torch.cat([low for _, low in parts]))
    return upper, lower
