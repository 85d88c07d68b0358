"""Which candidates may still be the optimum, from the confidence bounds of the rounds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from batchwright.bandits.bounds import Bound, tightest
from batchwright.bandits.pool import Pool, Region, Scatter, refine
from batchwright.core.errors import InputError

CONTRADICTION = (
    "bounds of different rounds contradict each other: the model does not fit, or the noise is larger than given"
)
ALL_GONE = "every candidate was eliminated, which true bounds never do; the elimination was undone"


class Survivors:
    """A pool with its bounds and what they leave of it.

    Attributes:
        pool: The candidates.
        upper: ``(E,)``: least upper bound of all rounds.
        lower: ``(E,)``: greatest lower bound of all rounds.
        alive: ``(N,)``: centres that are not eliminated.
        barred: ``(E,)``: points whose trial failed.
        bounds: Of the rounds, for points that are not in the pool; empty where a finite set needs none.
        returned: Centres that the last update took back.
        tested: Share of scattered points of the whole box that passed, and how many they were; None for a finite set.
        warnings: Sentences on bounds that cannot all be true.
    """

    def __init__(self, pool: Pool, *, intersect: bool, nested: bool) -> None:
        """Everything survives.

        Args:
            pool: The candidates.
            intersect: Eliminate by the bounds of all rounds at once, which a proven width allows. Otherwise each round eliminates by
                its own, as in the paper: a practical width fails here and there, and the best of many bounds is the likeliest to.
            nested: Whether what was eliminated stays so.
        """
        self.intersect, self.nested = intersect, nested
        self.bounds: list[Bound] = []
        self.returned = 0
        self.tested: tuple[float, int] | None = None
        self.warnings: list[str] = []
        self.enter(pool)

    def enter(self, pool: Pool) -> None:
        """Take up a pool; what passes the bounds so far is alive."""
        self.pool = pool
        self.upper, self.lower = tightest(self.bounds, pool.encoded)
        self.barred = torch.zeros(len(pool.points), dtype=torch.bool, device=pool.points.device)
        self.alive = self.passes(pool)

    def exclude(self, points: Tensor) -> None:
        """Never ask points ``(F, d)`` again, nor recommend them."""
        for point in torch.unique(points, dim=0) if len(points) else points:
            self.barred |= (self.pool.points == point).all(1)
        self.alive = self.alive & ~self.excluded

    @property
    def excluded(self) -> Tensor:
        """``(N,)``: centres whose trial failed."""
        return self.barred[: self.pool.num_centres]

    def update_from(self, mean: Tensor, width: Tensor, *, alone: bool) -> None:
        """New bounds at the pool itself; ``alone`` if they take the place of all earlier ones."""
        upper, lower = mean + width, mean - width
        if alone:
            self.upper, self.lower = upper, lower
        else:
            self.upper, self.lower = torch.minimum(self.upper, upper), torch.maximum(self.lower, lower)
        if self.intersect:
            upper, lower = self.upper, self.lower
        self._eliminate(self.pool.view(upper) >= self._floor(lower))

    def update(self, bounds: Sequence[Bound]) -> None:
        """All bounds that hold now, newly made or not."""
        floored = []
        upper = torch.full((len(self.pool.points),), math.inf, dtype=torch.float64, device=self.pool.points.device)
        lower = -upper
        for bound in bounds:
            high, low = tightest([bound], self.pool.encoded)
            upper, lower = torch.minimum(upper, high), torch.maximum(lower, low)
            # On a new pool the best of an earlier round may be missing; its bound still stands.
            floored.append(replace(bound, floor=max(bound.floor, self._floor(lower if self.intersect else low))))
        self.bounds = floored
        self.upper, self.lower = upper, lower
        self._eliminate(self.passes(self.pool))

    def passes(self, pool: Pool) -> Tensor:
        """Whether the centres of a pool, this or another, pass the bounds; a mask ``(N,)``."""
        found = torch.ones(pool.num_centres, dtype=torch.bool, device=pool.points.device)
        if self.bounds and self.intersect:
            floor = max(bound.floor for bound in self.bounds)
            return pool.view(tightest(self.bounds, pool.encoded)[0]) >= floor
        for bound in self.bounds:
            found &= pool.view(tightest([bound], pool.encoded)[0]) >= bound.floor
        return found

    def refine(
        self,
        scatter: Scatter,
        make_pool: Callable[[Tensor], Pool],
        number: int,
        failed: Tensor,
        generator: torch.Generator,
    ) -> None:
        """New candidates over what survives of a box; ``failed`` ``(F, d)`` are left out."""

        def alive(points: Tensor) -> Tensor:
            found = self.passes(make_pool(points))
            if len(failed):
                found &= ~(points[:, None, :] == failed[None]).all(2).any(1)
            return found

        order = self.pool.view(self.lower).argsort(descending=True)
        kept = self.pool.centres[order[self.alive[order]]]
        points, share, tested = refine(scatter, kept, alive, number, generator)
        self.enter(make_pool(points))
        self.exclude(failed)
        self.tested = (share, tested)
        if not bool(self.alive.any()):
            self._undo(torch.ones_like(self.alive))

    def region(self, *, finite: bool) -> Region:
        """Where the optimum may still be."""
        number, total = int(self.alive.sum()), len(self.alive)
        centres = self.pool.centres[self.alive]
        share, tested = self.tested or (1.0, total)
        return Region(
            num_alive=number,
            num_candidates=total,
            # Bounds newer than the last scattering leave a share of its survivors.
            fraction=number / total * (1.0 if finite else share),
            num_tested=tested,
            low=tuple(centres.min(0).values.tolist()),
            high=tuple(centres.max(0).values.tolist()),
            num_excluded=int(self.excluded.sum()),
            returned=self.returned,
            finite=finite,
        )

    def largest_regret(self, lower: float) -> float:
        """How much better the optimum over the candidates can be at most than a point of this lower bound."""
        return max(0.0, float(self.pool.view(self.upper)[self.alive].max()) - lower)

    def _floor(self, lower: Tensor) -> float:
        seen = self.pool.view(lower)[~self.excluded]
        return float(seen.max()) if len(seen) else -math.inf

    def _eliminate(self, passed: Tensor) -> None:
        if bool((self.upper < self.lower).any()) and CONTRADICTION not in self.warnings:
            self.warnings.append(CONTRADICTION)
        before = self.alive
        alive = passed & ~self.excluded
        if self.nested:
            alive &= before
        self.returned = int((alive & ~before).sum())
        self.alive = alive
        if not bool(alive.any()):
            self._undo(before)

    def _undo(self, alive: Tensor) -> None:
        """Take back an elimination that left nothing."""
        if ALL_GONE not in self.warnings:
            self.warnings.append(ALL_GONE)
        self.alive = alive & ~self.excluded
        if not bool(self.alive.any()):
            raise InputError("no candidate is left, every one failed; widen the space or set on_failure='retry'")
