"""Batched pure exploration: points of maximum variance among what survives, and elimination after each batch.

Source: Li & Scarlett (2022), *Gaussian Process Bandit Optimization with Few Batches*, arXiv:2110.07788, algorithm 1; Ma, Chen, Scarlett
(2026), arXiv:2603.12627 (number and lengths of the batches).
"""

from typing import ClassVar

from torch import Tensor

from batchwright.bandits.bandit import Bandit
from batchwright.bandits.candidate_posterior import CandidatePosterior


class BPE(Bandit):
    """Batched pure exploration: points of largest variance among the survivors.

    No point of a batch looks at a value of its own batch, so with ``keep="round"`` the width of the bounds has no information gain in
    it. Deviation: with a proven width a candidate is judged by the bounds of all rounds at once, which hold together, and the
    certificate always is; the paper takes those of the last round, as we do with a practical width.
    """

    name: ClassVar[str] = "bpe"
    keep_default: ClassVar[str] = "round"

    def choose(self, posterior: CandidatePosterior, count: int) -> Tensor:
        """Points of maximum variance among the survivors."""
        allowed = self.survivors.pool.reach(self.survivors.alive) & ~self.survivors.barred
        return posterior.select(count, allowed=allowed)
