"""Batched pure exploration as a search algorithm of Ray Tune: ``TuneConfig(search_alg=BPESearcher("lr=log:1e-4:1,..."), ...)``.

Ray Tune starts a process a trial, which costs about a second each; `tune(engine="ray")` uses its actors again. This class is for those
who have Ray Tune already.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray.tune.search import Searcher

from batchwright.bandits import Bandit, Recommendation, Space
from batchwright.core.checks import check_choice
from batchwright.core.errors import CheckpointError, InputError
from batchwright.tuning.outcome import Metric
from batchwright.tuning.settings import TuneSettings, default_method, plan_of, radius_of


class BPESearcher(Searcher):
    """Suggests rounds of trials that are planned beforehand; between two rounds it waits for the last value of the first.

    Args:
        space: As `bandits.Space.parse` reads it. Ray's own ``param_space`` may hold constants alone.
        metric: Reported by the trials. Ray passes that of ``TuneConfig`` on only where there is a ``param_space``, so it is given here.
        mode: ``min`` or ``max``.
        rounds: How many; 4 by default. ``TuneConfig(num_samples=...)`` must be the number of all trials, ``sum(searcher.plan)``.
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
        metric: str,
        mode: str = "min",
        rounds: int | None = None,
        parallel: int | None = None,
        trials: int | None = None,
        robust: float | str | Mapping[str, float] | None = None,
        method: str | None = None,
        scale: str = "linear",
        beta: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__(metric=metric, mode=check_choice("mode", mode, ("max", "min")))
        self.space = Space.parse(space) if isinstance(space, str) else space
        self.plan = plan_of(rounds, parallel, trials, dim=self.space.dim)
        self._method = method
        self._radius, self._scale, self._beta, self._seed = radius_of(self.space, robust), scale, beta, seed
        self._constants: dict[str, Any] = {}
        self._ids: dict[str, int] = {}
        self._bandit: Bandit | None = None

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """What ``TuneConfig`` says."""
        if self._bandit is not None:
            return False
        self._metric, self._mode = metric or self.metric, mode or self.mode
        self._constants = dict(config)
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next setting of the round; None where it must be waited for, ``Searcher.FINISHED`` after the plan."""
        bandit = self._made()
        waiting = self._unassigned(bandit)
        if not waiting and not bandit.pending():
            if bandit.done:
                return str(Searcher.FINISHED)
            bandit.ask()
            waiting = self._unassigned(bandit)
        if not waiting:
            return None
        trial = next(each for each in bandit.pending() if each.id == waiting[0])
        self._ids[trial_id] = trial.id
        return {**self._constants, **self.space.named(trial.point)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the last value of a trial; one without a value has failed."""
        number, bandit = self._ids.get(trial_id), self._made()
        if number is None or number not in {each.id for each in bandit.pending()}:
            return
        value = float("nan")
        if not error and result is not None:
            if self.metric not in result:
                raise InputError(
                    f"metric must be one that trials report, got {self.metric!r} and {', '.join(sorted(result))}"
                )
            value = float(result[self.metric])
        seen = self._scale_of().seen(value)
        bandit.tell(None, torch.tensor([seen], dtype=torch.float64), ids=[number])

    def recommend(self) -> Recommendation:
        """The optimum of the posterior mean over the survivors with its certificate; never the best trial.

        Raises:
            InputError: If no trial has a value yet.
        """
        return self._made().recommend()

    def save(self, checkpoint_path: str) -> None:
        """Write the state as JSON and safetensors."""
        from safetensors.torch import save_file

        state = self._made().state_dict()
        plain = {
            "bandit": state["plain"], "ids": self._ids, "metric": self.metric, "mode": self.mode, "constants": self._constants
        }  # fmt: skip
        save_file(state["tensors"], checkpoint_path, metadata={"plain": json.dumps(plain, default=str)})

    def restore(self, checkpoint_path: str) -> None:
        """Go on from a state of a searcher that was made with the same arguments.

        Raises:
            CheckpointError: If it is of another one.
        """
        from safetensors import safe_open

        if not Path(checkpoint_path).is_file():
            raise CheckpointError(f"checkpoint_path must be what save() wrote, got {checkpoint_path}")
        with safe_open(checkpoint_path, framework="pt") as file:
            plain = json.loads(file.metadata()["plain"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        self._metric, self._mode, self._ids = plain["metric"], plain["mode"], plain["ids"]
        self._constants, self._bandit = plain["constants"], None
        self._made().load_state_dict({"plain": plain["bandit"], "tensors": tensors})

    def _made(self) -> Bandit:
        if self._bandit is None:
            settings = TuneSettings(
                objective="ray",
                metric=self._scale_of(),
                space=self.space,
                plan=self.plan,
                method=self._method or default_method(self._radius),
                radius=self._radius,
                beta=self._beta,
                seed=self._seed,
            )
            self._bandit = settings.bandit()
        return self._bandit

    def _scale_of(self) -> Metric:
        return Metric(direction="above" if self.mode == "max" else "below", scale=self._scale)

    def _unassigned(self, bandit: Bandit) -> list[int]:
        taken = set(self._ids.values())
        return [each.id for each in bandit.pending() if each.id not in taken]
