"""Batched pure exploration for a point whose value stays high when its input is perturbed.

Source: the setting is that of Bogunovic et al. (2018), arXiv:1810.10775; the claim that batched pure exploration attains the bound of
the plain problem is that of Ma, Chen, Scarlett (2026), arXiv:2603.12627, whose algorithm was not at hand.
Deviation: the steps here are derived. The minimum over a neighbourhood is 1-Lipschitz in the largest error, so the worst upper and
lower bounds enclose the worst value, and exploring all neighbourhoods of the survivors makes them narrow.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.bandits.bpe import BPE
from batchwright.bandits.perturbation import Neighbourhoods, Perturbation, neighbourhoods
from batchwright.bandits.pool import Pool
from batchwright.bandits.space import Space
from batchwright.core.checks import check_int


class RobustBPE(BPE):
    """Batched pure exploration of all that a perturbation can make of the survivors.

    It maximises ``g(x) = min f(x')`` over the ``x'`` that a perturbation can make of ``x``.
    What is asked may be a perturbed point, which is not itself recommended. ``mean`` and ``regret_bound`` of the recommendation are
    those of ``g``.
    """

    name: ClassVar[str] = "robust-bpe"
    candidates_default: ClassVar[int] = 512

    def __init__(
        self,
        space: Space | Tensor,
        *,
        horizon: int,
        perturbation: Perturbation,
        num_neighbours: int = 24,
        batches: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        """Make a plan; the other arguments are those of `BPE`.

        Args:
            space: As for `BPE`. In a finite set the neighbourhood of a point is the points of the set within the ball.
            horizon: Trials in all.
            perturbation: Of the input.
            num_neighbours: On a box, points that stand for the ball about each candidate.
            batches: Trials in each round.
            **options: As for `BPE`.
        """
        self.perturbation = perturbation
        self.num_neighbours = check_int("num_neighbours", num_neighbours, at_least=2)
        self._ball_seed = int(options.get("seed", 0))
        super().__init__(space, horizon=horizon, batches=batches, **options)

    def make_pool(self, points: Float[Tensor, "N d"]) -> Pool:
        """Candidates with their neighbourhoods: in the set itself, or points of the ball about each."""
        if self.finite:
            near = neighbourhoods(self.space, points, self.perturbation)
            return Pool(points=points, encoded=self.encode(points), num_centres=len(points), near=near)
        # The same offsets every time, so that a candidate has one worst value, whenever it is asked for.
        generator = torch.Generator().manual_seed(self._ball_seed)
        around = self.perturbation.around(self.space, points, self.num_neighbours, generator)
        number, each = around.shape[:2]
        everything = torch.cat([points, around.reshape(-1, points.shape[1])])
        centre = torch.arange(number, device=points.device)
        near = Neighbourhoods(
            index=torch.cat([centre, torch.arange(number, len(everything), device=points.device)]),
            centre=torch.cat([centre, centre.repeat_interleave(each)]),
            num_centres=number,
            num_points=len(everything),
        )
        return Pool(points=everything, encoded=self.encode(everything), num_centres=number, near=near)
