"""Upper confidence bounds, one point at a time or in batches with hallucinated values.

Sources: Srinivas, Krause, Kakade, Seeger (2010), arXiv:0912.3995 (GP-UCB); Desautels, Krause, Burdick (2014), JMLR 15, algorithm 1
(GP-BUCB).
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from batchwright.bandits.bandit import Bandit
from batchwright.bandits.candidate_posterior import CandidatePosterior


class GPBUCB(Bandit):
    """The largest upper bounds, one after another, with the mean for the values that are not known yet.

    In a batch the mean stays and the variance shrinks as if the values were known: hallucinated values equal to the mean.
    Deviation: the width is that of the confidence as given; the paper widens it by a factor that the information gain of a batch
    bounds, and begins with a batch of maximum variance, which nobody runs in practice.
    """

    name: ClassVar[str] = "gp-bucb"

    def choose(self, posterior: CandidatePosterior, count: int) -> Tensor:
        """The largest upper bounds, one after another."""
        mean, root_beta = posterior.mean, self.evidence.root_beta(self.confidence, self.num_rounds)
        found = []
        for _ in range(count):
            upper = mean + root_beta * posterior.variance.sqrt()
            index = int(upper.masked_fill(self.survivors.excluded, -math.inf).argmax())
            posterior.add(index)
            found.append(index)
        return torch.tensor(found, dtype=torch.int64, device=self.device)


class GPUCB(GPBUCB):
    """The largest upper bound, one trial a round; as many rounds as trials."""

    name: ClassVar[str] = "gp-ucb"
    rule_default: ClassVar[str] = "one"
