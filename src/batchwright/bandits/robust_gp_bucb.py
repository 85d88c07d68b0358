"""Upper confidence bounds on the worst value of a neighbourhood, in batches with hallucinated values.

Sources: Bogunovic, Scarlett, Jegelka, Cevher (2018), arXiv:1810.10775, algorithm 1 (StableOpt: the centre by its worst upper bound, and
the point of its neighbourhood with the least lower bound); Desautels, Krause, Burdick (2014), JMLR 15 (batches).
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from batchwright.bandits.candidate_posterior import CandidatePosterior
from batchwright.bandits.robust_bpe import RobustBPE


class RobustGPBUCB(RobustBPE):
    """StableOpt in batches: the worst upper bounds, each tried where its neighbourhood may be worst.

    In a batch the mean stays and the variance shrinks as if the values were known.

    Deviation: as in `GPBUCB`, the width is that of the confidence as given.
    """

    name: ClassVar[str] = "robust-gp-bucb"
    keep_default: ClassVar[str] = "all"

    def choose(self, posterior: CandidatePosterior, count: int) -> Tensor:
        """For each point the centre of the largest worst upper bound, and in its neighbourhood what may be worst."""
        pool, mean = self.survivors.pool, posterior.mean
        root_beta = self.evidence.root_beta(self.confidence, self.num_rounds)
        near = pool.near
        assert near is not None  # a robust bandit has neighbourhoods
        found = []
        for _ in range(count):
            width = root_beta * posterior.variance.sqrt()
            centre = int(pool.view(mean + width).masked_fill(self.survivors.excluded, -math.inf).argmax())
            around = near.index[near.centre == centre]
            lower = (mean - width)[around].masked_fill(self.survivors.barred[around], math.inf)
            index = int(around[lower.argmin()])
            posterior.add(index)
            found.append(index)
        return torch.tensor(found, dtype=torch.int64, device=self.device)
