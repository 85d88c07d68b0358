"""What a search is made of and how far it is: its space, plan, trials, model, candidates and what they are known to be."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.bandits.candidate_posterior import CandidatePosterior
from batchwright.bandits.confidence import Confidence
from batchwright.bandits.evidence import Evidence
from batchwright.bandits.kernels import Kernel
from batchwright.bandits.model import Model
from batchwright.bandits.pool import Pool, Region, Scatter
from batchwright.bandits.schedules import batch_schedule, describe
from batchwright.bandits.space import Space, space_of
from batchwright.bandits.survivors import Survivors
from batchwright.bandits.trials import FAILED, PENDING, Trial, Trials
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError

KEEPS = ("all", "round")
ON_FAILURE = ("exclude", "retry", "worst")
OPENINGS = ("chosen", "scattered")


class Progress:
    """A search as far as it is; `Bandit` takes it further.

    Attributes:
        name: In tables and on the command line.
        space: What is searched.
        plan: Trials in each round; known before the first.
        trials: Everything asked so far.
        survivors: Candidates, their bounds, and which of them are left.
        evidence: Values and the model they are read with.
        finite: Whether the candidates are a set as given.
        num_rounds: Rounds that are closed.
    """

    name: ClassVar[str]
    keep_default: ClassVar[str] = "all"
    rule_default: ClassVar[str] = "sqrt"
    candidates_default: ClassVar[int] = 2048

    def __init__(
        self,
        space: Space | Tensor,
        *,
        horizon: int,
        batches: Sequence[int] | None = None,
        num_batches: int | None = None,
        rule: str | None = None,
        model: Model | None = None,
        confidence: Confidence | None = None,
        maximize: bool = True,
        keep: str | None = None,
        corruption: float = 0.0,
        on_failure: str = "exclude",
        num_candidates: int | None = None,
        opening: str = "chosen",
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        """Make a plan; nothing is asked yet.

        Args:
            space: A `Space`, whose kernel measures distance on the unit cube; or a finite set of points ``(N, d)``, which a given
                kernel measures as they are.
            horizon: Trials in all.
            batches: Trials in each round, if they are given; they sum to the horizon.
            num_batches: Rounds, by the rule ``exponent``.
            rule: Of `batch_schedule`, or ``one`` for rounds of one trial.
            model: Kernel, noise and mean, given or fitted.
            confidence: Width of the bounds.
            maximize: Whether large values are good.
            keep: ``round``: bounds from the values of one round each, which is what the proof needs; ``all``: from all values, which
                is tighter and has no such proof, since later points looked at earlier noise.
            corruption: Sum of the absolute changes that an adversary may have made to the values behind one bound (of a round, or of
                all with ``keep="all"``). Perturbations of the input are another thing: see `RobustBPE`.
            on_failure: A trial without a finite value: ``exclude`` its point from the candidates, ``retry`` it in a later round where
                it is uncertain enough, or take it for the ``worst`` value seen.
            num_candidates: Points of a box at a time.
            opening: First round of a box: ``chosen`` as every other, or ``scattered`` evenly, by the scrambled Sobol sequence. Where
                nothing is known, points of largest variance or bound lie in the corners, of which six dimensions have 64.
            seed: Of everything random here.
            device: Of the candidates and the linear algebra.

        Raises:
            InputError: If an argument breaks these rules.
        """
        self.model = model or Model()
        self.confidence = confidence or Confidence()
        self.keep = check_choice("keep", keep or self.keep_default, KEEPS)
        self.corruption = check_number("corruption", corruption, at_least=0.0)
        self.on_failure = check_choice("on_failure", on_failure, ON_FAILURE)
        self.opening = check_choice("opening", opening, OPENINGS)
        self.device = torch.device(device)
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed)
        self.finite = isinstance(space, Tensor)
        points: Tensor
        if isinstance(space, Tensor):
            if space.ndim != 2 or len(space) == 0 or not bool(torch.isfinite(space).all()):
                raise InputError(f"space must be finite points (N, d) with N > 0, got shape {tuple(space.shape)}")
            points = space.to(self.device, torch.float64)
            self.space = space_of(points)
        else:
            self.space = space
            number = self.candidates_default if num_candidates is None else num_candidates
            self._num_candidates = check_int("num_candidates", number, at_least=2)
            self.scatter = Scatter(space, seed, self.device)
            points = self.scatter.draw(self._num_candidates)
        self._raw = self.finite and isinstance(self.model.kernel, Kernel)
        self.plan = self._make_plan(horizon, batches, num_batches, rule)
        self.trials = Trials(self.space.dim, self.encode(points[:1]).shape[1], self.device)
        self.evidence = Evidence(
            self.trials, self.model, sign=1.0 if maximize else -1.0, worst_for_failed=on_failure == "worst", seed=seed
        )
        # A new fit, or bounds from all values, may take back what older bounds eliminated.
        self.survivors = Survivors(
            self.make_pool(points),
            intersect=self.confidence.beta is None,
            nested=self.keep == "round" and not self.model.fitted,
        )
        self.num_rounds = 0
        self.num_refined = 0
        self.live: CandidatePosterior | None = None

    def make_pool(self, points: Float[Tensor, "N d"]) -> Pool:
        """Candidates, with whatever else has to be modelled for them."""
        return Pool(points=points, encoded=self.encode(points), num_centres=len(points))

    def __repr__(self) -> str:
        """The plan in a sentence."""
        return f"{self.name}: {describe(self.plan)}"

    @property
    def done(self) -> bool:
        """Whether every round is closed."""
        return self.num_rounds == len(self.plan)

    def pending(self) -> tuple[Trial, ...]:
        """Trials without a value: what a program that was killed goes on with."""
        return tuple(self.trials.row(int(each)) for each in (self.trials.status == PENDING).nonzero()[:, 0])

    @property
    def region(self) -> Region:
        """Where the optimum may still be."""
        return self.survivors.region(finite=self.finite)

    @property
    def guarantee(self) -> str:
        """What stands behind the bounds."""
        parts = [self.confidence.words]
        if self.keep == "all" and self.confidence.beta is None and len(self.plan) > 1:
            parts.append("width with the realised information gain")
        if self.model.fitted:
            parts.append("kernel fitted to the same values, so it holds for that kernel")
        if self.corruption:
            parts.append(f"values may have been changed by {self.corruption:g} in all")
        if not self.finite:
            parts.append(f"over {self.survivors.pool.num_centres} candidates, not between them")
        return "; ".join(parts)

    @property
    def proven(self) -> bool:
        """Whether the bounds are a theorem for the model as given: a proven width and a given kernel."""
        return self.confidence.beta is None and not self.model.fitted

    def encode(self, points: Float[Tensor, "N d"]) -> Float[Tensor, "N D"]:
        """Points as the kernel sees them."""
        return points if self._raw else self.space.encode(points)

    def polish_generator(self) -> torch.Generator:
        """Of its own, so that a recommendation on the way changes nothing of what is asked next."""
        return torch.Generator().manual_seed(self.seed + 1)

    def failed_points(self) -> Float[Tensor, "F d"]:
        """Points whose trials failed."""
        return self.trials.points[(self.trials.status == FAILED).nonzero()[:, 0].to(self.device)]

    def _make_plan(
        self, horizon: int, batches: Sequence[int] | None, num_batches: int | None, rule: str | None
    ) -> tuple[int, ...]:
        check_int("horizon", horizon, at_least=1)
        if batches is not None:
            if sum(batches) != horizon or min(batches) < 1:
                raise InputError(f"batches must be positive and sum to horizon={horizon}, got {list(batches)[:20]}")
            return tuple(batches)
        kernel = self.model.kernel
        name, nu = (kernel, self.model.nu) if isinstance(kernel, str) else (kernel.name, kernel.nu)
        chosen = rule or (self.rule_default if num_batches is None else "exponent")
        if chosen == "one":
            return (1,) * horizon
        return tuple(batch_schedule(horizon, num_batches, name, nu, self.space.dim, rule=chosen))
