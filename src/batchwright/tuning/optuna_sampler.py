"""Batched pure exploration as a sampler of Optuna: ``optuna.create_study(sampler=BPESampler("lr=log:1e-4:1,..."))``.

The sampler keeps nothing that the study does not hold: what a round asks follows from the values of the rounds before it, and is
written to the study when its first trial asks. So several processes may work on one storage, and a study goes on after a crash.
"""

from collections.abc import Mapping
from typing import Any

import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from batchwright.bandits import Bandit, Recommendation, Space
from batchwright.core.errors import InputError
from batchwright.tuning.optuna_space import distributions_of, point_of
from batchwright.tuning.outcome import Metric
from batchwright.tuning.settings import TuneSettings, default_method, plan_of, radius_of

# The study's attributes in which the rounds stand.
ATTRIBUTE = "batchwright:round-"


class BPESampler(BaseSampler):
    """Asks rounds of trials that are planned beforehand.

    Trials that are still running when the next round is asked count as failed for that round: with ``n_jobs`` or several workers, wait
    for a round (``study.ask`` and ``study.tell``, or ``optimize(n_trials=parallel)`` once a round) where their values matter. Trials
    beyond the plan repeat the recommended setting.

    Args:
        space: As `bandits.Space.parse` reads it; the objective suggests parameters of the same names and bounds, a power of two as an
            integer on a logarithmic axis.
        rounds: How many; 4 by default.
        parallel: Trials in a round; 8 by default.
        trials: In all, in rounds that a schedule chooses, instead of ``parallel``.
        robust: As in `tune`.
        method: As in `tune`; ``bpe`` for batched pure exploration in the strict sense.
        scale: ``log`` for positive values that differ by factors.
        beta: Practical width of the bounds.
        seed: Of everything random.
    """

    def __init__(
        self,
        space: str | Space,
        *,
        rounds: int | None = None,
        parallel: int | None = None,
        trials: int | None = None,
        robust: float | str | Mapping[str, float] | None = None,
        method: str | None = None,
        scale: str = "linear",
        beta: float = 4.0,
        seed: int = 0,
    ) -> None:
        self.space = Space.parse(space) if isinstance(space, str) else space
        self.plan = plan_of(rounds, parallel, trials, dim=self.space.dim)
        self._method = method
        self._radius, self._scale, self._beta, self._seed = radius_of(self.space, robust), scale, beta, seed
        self._distributions = distributions_of(self.space)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, always."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The setting that the plan has for a trial of this number."""
        if trial.number >= sum(self.plan):
            return dict(self.recommend(study).values)
        number, first = 0, 0
        while trial.number >= first + self.plan[number]:
            first += self.plan[number]
            number += 1
        known = study.user_attrs.get(f"{ATTRIBUTE}{number}")
        if known is None:
            known = [self.space.named(point) for point in self._bandit(study, number).ask().tolist()]
            study.set_user_attr(f"{ATTRIBUTE}{number}", known)
        return dict(known[trial.number - first])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that the space does not name, at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def recommend(self, study: Study) -> Recommendation:
        """The optimum of the posterior mean over the survivors with its certificate, from what the study holds; never its best trial.

        Its numbers are on the scale of the bandit, the logarithm where ``scale`` says so.

        Raises:
            InputError: If no trial of the study has a value.
        """
        return self._bandit(study, len(self.plan)).recommend()

    def _bandit(self, study: Study, num_rounds: int) -> Bandit:
        """A bandit that has been told the first rounds of a study."""
        if len(study.directions) != 1:
            raise InputError(f"BPESampler needs a study of one objective, got {len(study.directions)}")
        direction = "above" if study.direction == StudyDirection.MAXIMIZE else "below"
        metric = Metric(direction=direction, scale=self._scale)
        settings = TuneSettings(
            objective=study.study_name,
            metric=metric,
            space=self.space,
            plan=self.plan,
            method=self._method or default_method(self._radius),
            radius=self._radius,
            beta=self._beta,
            on_failure="worst",
            seed=self._seed,
        )
        bandit = settings.bandit()
        trials = {each.number: each for each in study.get_trials(deepcopy=False)}
        first = 0
        for number, count in enumerate(self.plan[:num_rounds]):
            asked = study.user_attrs.get(f"{ATTRIBUTE}{number}")
            if asked is None:
                break
            bandit.ask()
            ids = [each.id for each in bandit.pending()]
            here = [trials.get(first + place) for place in range(count)]
            for place, each in enumerate(here):
                point = point_of(self.space, each.params if each is not None else {})
                bandit.replace_point(ids[place], self.space.point(asked[place]) if point is None else point)
            bandit.tell(None, torch.tensor([_value(each, metric) for each in here], dtype=torch.float64), ids=ids)
            first += count
        return bandit


def _value(trial: FrozenTrial | None, metric: Metric) -> float:
    if trial is None or trial.state != TrialState.COMPLETE or trial.value is None:
        return float("nan")
    return metric.seen(float(trial.value))
