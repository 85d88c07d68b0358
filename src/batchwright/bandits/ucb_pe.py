"""Upper confidence bound and pure exploration: the first point of a batch by its bound, the others by their variance.

Source: Contal, Buffoni, Robicquet, Vayatis (2013), arXiv:1304.5350, algorithm 1.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from batchwright.bandits.candidate_posterior import CandidatePosterior
from batchwright.bandits.gp_ucb import GPBUCB


class UCBPE(GPBUCB):
    """The largest upper bound, then points of largest variance in the region that may hold the maximum."""

    name: ClassVar[str] = "ucb-pe"

    def choose(self, posterior: CandidatePosterior, count: int) -> Tensor:
        """One by its bound, the others by their variance."""
        mean, root_beta = posterior.mean, self.evidence.root_beta(self.confidence, self.num_rounds)
        deviation = posterior.variance.sqrt()
        first = int((mean + root_beta * deviation).masked_fill(self.survivors.excluded, -math.inf).argmax())
        # Twice the width: the region that the next batch's own bound may choose from.
        floor = (mean - root_beta * deviation).masked_fill(self.survivors.excluded, -math.inf).max()
        relevant = (mean + 2 * root_beta * deviation >= floor) & ~self.survivors.excluded
        posterior.add(first)
        others = posterior.select(count - 1, allowed=relevant)
        return torch.cat([torch.tensor([first], dtype=torch.int64, device=self.device), others])
