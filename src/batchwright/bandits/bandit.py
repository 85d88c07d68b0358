"""Ask and tell: what every bandit here shares. Rounds of trials are asked, told in any order, and closed with new bounds."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.bandits.bounds import Bound
from batchwright.bandits.candidate_posterior import CandidatePosterior
from batchwright.bandits.certificate import Recommendation, certify
from batchwright.bandits.progress import Progress
from batchwright.bandits.schedules import describe
from batchwright.bandits.state import restore, state_of
from batchwright.bandits.trials import DONE, Trial
from batchwright.core.errors import InputError


class Bandit(Progress, ABC):
    """A search for the maximum (or minimum) of an unknown function in rounds of parallel trials.

    ``ask()`` gives the points of the next round, ``tell(points, values)`` takes values in any order and any portions, and the round is
    closed when none is pending. ``recommend()`` may be called after any value.
    """

    @abstractmethod
    def choose(self, posterior: CandidatePosterior, count: int) -> Tensor:
        """Indices into the pool of the next ``count`` points, which the posterior's variance is conditioned on in this order."""

    def ask(self) -> Float[Tensor, "Q d"]:
        """The points of the next round.

        Raises:
            InputError: If trials are pending, or all rounds are over.
        """
        waiting = self.pending()
        if waiting:
            ids = [each.id for each in waiting[:8]]
            raise InputError(
                f"ask must wait for the {len(waiting)} pending trials (ids {ids}); tell their values, or fail(ids)"
            )
        if self.done:
            raise InputError(f"ask must come within the plan, got a call after {describe(self.plan)}; call recommend()")
        if not self.finite and self.num_rounds > self.num_refined:
            self.num_refined = self.num_rounds
            failed = self.failed_points() if self.on_failure == "exclude" else self.trials.points[:0]
            self.survivors.refine(self.scatter, self.make_pool, self._num_candidates, failed, self.generator)
        count = self.plan[self.num_rounds]
        if self.opening == "scattered" and self.num_rounds == 0 and not self.finite:
            # The first pool is the sequence itself, so its first points are spread evenly; should it be short, they come again.
            chosen = torch.arange(count, device=self.device) % self.survivors.pool.num_centres
        else:
            chosen = self.choose(self.posterior(), count)
        pool = self.survivors.pool
        self.trials.add(pool.points[chosen], pool.encoded[chosen], chosen.cpu(), self.num_rounds)
        return pool.points[chosen].clone()

    def ask_trials(self) -> tuple[Trial, ...]:
        """`ask`, with the ids of the trials."""
        self.ask()
        return self.pending()

    def tell(
        self, points: Float[Tensor, "Q d"] | None, values: Float[Tensor, " n"], *, ids: Sequence[int] | None = None
    ) -> None:
        """Give values of pending trials; the last one of a round closes it.

        Args:
            points: As they were asked; not looked at where ``ids`` are given.
            values: NaN or infinite where the trial failed.
            ids: Of the trials.

        Raises:
            InputError: If a trial is not pending, or the numbers differ.
        """
        if ids is None:
            if points is None:
                raise InputError("tell must be given points or ids, got neither")
            ids = self.trials.find(points.to(self.device, torch.float64))
        if len(ids) != len(values):
            raise InputError(f"values must be one a trial, got {len(values)} for {len(ids)} trials")
        self.trials.tell(ids, values.detach().to("cpu", torch.float64))
        if len(ids) and not self.pending():
            self.close_round()

    def fail(self, ids: Sequence[int]) -> None:
        """Say that trials crashed, ran out of time or were lost."""
        self.tell(None, torch.full((len(ids),), math.nan, dtype=torch.float64), ids=ids)

    def replace_point(self, id: int, point: Float[Tensor, " d"]) -> None:
        """Say that a pending trial is run at another point of a box than was asked, which is what its value will be of.

        Raises:
            InputError: If the trial is not pending, or the points are a finite set.
        """
        if self.finite or id not in {each.id for each in self.pending()}:
            raise InputError(f"id must be of a pending trial on a box, got {id}")
        place = point.to(self.device, torch.float64)
        if not bool((self.trials.points[id] == place).all()):
            self.trials.points[id] = place
            self.trials.encoded[id] = self.encode(place[None])[0]

    def recommend(self) -> Recommendation:
        """The optimum of the posterior mean of all values over the survivors, polished on a box, with its certificate.

        Raises:
            InputError: If no trial has a value yet.
        """
        return certify(self)

    def state_dict(self) -> dict[str, Any]:
        """``{"plain": ..., "tensors": ...}``: values for JSON, and tensors by name for safetensors; also in the middle of a round."""
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the bandit must have been made with the same arguments.

        Raises:
            CheckpointError: If the state is of another bandit, or damaged.
        """
        restore(self, state)

    # Inside

    def posterior(self) -> CandidatePosterior:
        """What the next points are chosen with: the values that the method keeps, at the candidates."""
        if self.live is None:
            force = self.evidence.model_after(self.num_rounds)
            self.live = CandidatePosterior(
                self.survivors.pool.encoded,
                force.kernel,
                self.evidence.noise_after(self.num_rounds),
                prior_mean=force.mean,
            )
            if self.keep == "all" and len(self.trials):
                points, values, counts = self.evidence.data()
                self.live.condition(points, values, counts=counts)
        return self.live

    def close_round(self) -> None:
        """Bounds and survivors from the values of the round that is over."""
        # The test is of a batch; after each of a thousand single trials it would cost more than the trials.
        surprise = self.evidence.surprise(self.num_rounds) if self.plan[self.num_rounds] > 1 else ""
        if surprise:
            self.survivors.warnings.append(surprise)
        number, self.num_rounds = self.num_rounds, self.num_rounds + 1
        here = self.trials.round == number
        whole = bool((self.trials.status[here] == DONE).all())
        live, self.live = self.live, None
        if self.on_failure == "exclude":
            self.survivors.exclude(self.failed_points())
        if live is not None and whole and self.finite and not self.model.fitted and not self.corruption:
            # The rows of the factor are there already, so the bounds need no other solve.
            live.observe((self.evidence.sign * self.trials.value[here]).to(self.device))
            width = self._root_beta() * live.variance.sqrt()
            self.survivors.update_from(live.mean, width, alone=self.keep == "all")
            self.live = live if self.keep == "all" else None
        else:
            self.survivors.update(self._new_bounds(number))

    def _new_bounds(self, number: int) -> list[Bound]:
        """All bounds that hold after round ``number``."""
        root_beta = self._root_beta()
        earlier: list[Bound] = []
        rounds: list[int | None] = [None]
        if self.keep == "round":
            # A new fit is for the earlier rounds too, and a finite set may hold bounds that came from its rows alone.
            anew = self.model.fitted or self.finite
            rounds = list(range(self.num_rounds)) if anew else [number]
            earlier = [] if anew else self.survivors.bounds
        return earlier + [
            Bound(posterior=posterior, root_beta=root_beta, corruption=self.corruption, round=each)
            for each in rounds
            if (posterior := self.evidence.posterior(self.num_rounds, each)) is not None
        ]

    def _root_beta(self) -> float:
        if self.keep == "round":
            return self.confidence.for_batches(len(self.survivors.pool.points), len(self.plan))
        return self.evidence.root_beta(self.confidence, self.num_rounds)
