"""The trainer: updates until the budget is used, with records, checkpoints and a resume that is bit-identical.

Sources: Papini, Pirotta, Restelli (2017), algorithm 1; Papini et al. (2022), SPG and relaxed SPG.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from batchwright.core.environment import environment
from batchwright.core.errors import CheckpointError, InputError
from batchwright.core.records import NoRecords, RecordWriter, make_folder, read_json, read_records, write_json
from batchwright.core.serialization import from_plain, to_plain
from batchwright.rl.constants import resolve, smoothing_of
from batchwright.rl.episodes import EnvironmentSpec, Sampler
from batchwright.rl.guarantee import Guarantee, guarantee
from batchwright.rl.observed import Observed
from batchwright.rl.options import SafeOptions
from batchwright.rl.policies import Policy
from batchwright.rl.trial_curvature import Trial
from batchwright.rl.update import one_update
from batchwright.rl.update_record import RunState, UpdateRecord
from batchwright.training.interrupt import Interrupt

STATE_NAME = "state.json"
STATE_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SafeRun:
    """What a run has come to.

    Attributes:
        policy: At its last parameters; those before the last step, where steps are on trial and no batch has judged it.
        updates: Records of the updates, those of earlier parts of a resumed run included.
        guarantee: What was promised.
        reason: ``budget``, ``interrupted`` or ``updates`` (the most that were asked for).
        seconds: Of this process.
        folder: Of the records; None if there are none.
    """

    policy: Policy
    updates: tuple[UpdateRecord, ...]
    guarantee: Guarantee
    reason: str
    seconds: float
    folder: Path | None = None

    @property
    def num_trajectories(self) -> int:
        """Used."""
        return self.updates[-1].num_trajectories if self.updates else 0

    @property
    def num_moves(self) -> int:
        """Updates that changed the parameters."""
        return sum(update.step_size > 0 for update in self.updates)


class SafePolicyGradient:
    """Policy gradient whose batch and step size are chosen so that an update improves the return with a stated probability.

    Args:
        env: Where the episodes come from.
        policy: Where to begin.
        reward_bound: ``R``, where the environment does not say it, or to say it more tightly.
        observation_bound: Bound of each component of an observation, likewise.
        evaluate: Gives the true return of a policy, where it is known; recorded beside the sampled one, once an update.
        options: Of `SafeOptions`, as keywords: ``delta``, ``bound``, ``budget``, ``rule``, ``method``, ...

    Raises:
        InputError: On a bad value, or if a constant is not known and is not to be taken from data.

    Example:
        >>> from batchwright.rl import GaussianPolicy
        >>> from batchwright.rl.lqg import LQG
        >>> trainer = SafePolicyGradient(LQG(), GaussianPolicy(1, 1), delta=0.2, budget=20_000)
        >>> trainer.guarantee.holds
        True
        >>> run = trainer.train()
        >>> run.num_trajectories
        20000
    """

    def __init__(
        self,
        env: Sampler,
        policy: Policy,
        *,
        reward_bound: float | None = None,
        observation_bound: float | None = None,
        evaluate: Callable[[Policy], float] | None = None,
        **options: Any,
    ) -> None:
        self.options = _options(options)
        spec = env.spec
        if reward_bound is not None:
            spec = replace(spec, reward_bound=reward_bound)
        if observation_bound is not None:
            spec = replace(spec, observation_bound=observation_bound)
        self.env: Sampler = _Bounded(env, spec)
        if policy.discrete != (spec.num_actions is not None):
            kinds = ("discrete", "continuous") if policy.discrete else ("continuous", "discrete")
            raise InputError(f"policy must give {kinds[1]} actions for {spec.name}, got one with {kinds[0]} ones")
        self.policy = policy
        self.guarantee = guarantee(
            spec, policy, self.options, scores_clipped=bool(getattr(env, "clip_recorded", False))
        )
        self._evaluate = evaluate
        if self.options.constants == "known":
            resolve(spec, policy, self.options)  # what is missing is said before anything runs
        else:
            smoothing_of(policy, self.options, 1.0)  # for whether there are any no bound matters

    def train(
        self,
        out: Path | None = None,
        *,
        resume: bool = False,
        label: str = "",
        max_updates: int | None = None,
        on_update: Callable[[UpdateRecord], None] | None = None,
    ) -> SafeRun:
        """Update until the budget is used.

        Args:
            out: Folder for records and checkpoints; none are written where left out.
            resume: Go on with the run in ``out``, bit by bit as if it had never stopped; the budget alone may be another.
            label: Runs with one label are repeats of one another.
            max_updates: Stop after so many updates in all.
            on_update: Called after each.

        Returns:
            The run; its ``reason`` is ``interrupted`` after Ctrl-C, and then it can be resumed.

        Raises:
            InputError: If ``out`` holds a run and is not to be resumed, or the other way round.
            CheckpointError: If the run in ``out`` had other options.
        """
        if resume and out is None:
            raise InputError("out must name the folder of the run to resume, got none")
        state = self._first_state()
        updates: list[UpdateRecord] = []
        if out is not None:
            state, updates = self._folder_state(out, state, resume)
        began = time.monotonic()
        records = RecordWriter(out) if out is not None else NoRecords()
        reason = "budget"
        with records, Interrupt() as interrupt:
            if out is not None:
                self._record_start(records, label, state, resume)
            while self.options.budget - state.num_trajectories >= self.options.min_batch_size:
                if interrupt.asked or (max_updates is not None and state.step >= max_updates):
                    reason = "interrupted" if interrupt.asked else "updates"
                    break
                state, update = one_update(self.env, self.policy, self.options, state)
                updates.append(update)
                fields = to_plain(update)
                if self._evaluate is not None:
                    fields["true_return"] = self._evaluate(self.policy.at(state.theta))
                records.write("update", **fields)
                if on_update is not None:
                    on_update(update)
                if out is not None and state.step % self.options.checkpoint_every == 0:
                    self._save(out, records, state)
            if out is not None:
                self._save(out, records, state)
            records.write(
                "end",
                step=state.step,
                num_trajectories=state.num_trajectories,
                reason=reason,
                train_s=time.monotonic() - began,
            )
        return SafeRun(
            policy=self.policy.at(state.judged_theta),
            updates=tuple(updates),
            guarantee=self.guarantee,
            reason=reason,
            seconds=time.monotonic() - began,
            folder=out,
        )

    def _first_state(self) -> RunState:
        return RunState(theta=self.policy.theta, batch_size=self.options.min_batch_size)

    def _folder_state(self, out: Path, state: RunState, resume: bool) -> tuple[RunState, list[UpdateRecord]]:
        there = (out / STATE_NAME).exists()
        if there and not resume:
            raise InputError(f"out must be a folder without a run, got {out}; resume it, or choose another")
        if not there:
            if resume:
                raise InputError(
                    f"out must hold a run to resume, got no {STATE_NAME} in {out}; start it without resume"
                )
            make_folder(out)
            write_json(out / STATE_NAME, self._document(state))
            return state, []
        found = read_json(out / STATE_NAME)
        self._check_same(out, found)
        state = _state_from(found)
        lines = read_records(out).of_kind("update")
        updates = [from_plain(UpdateRecord, line, "update") for line in lines if line["step"] <= state.step]
        return state, updates

    def _document(self, state: RunState) -> dict[str, Any]:
        return {
            "schema": STATE_SCHEMA,
            "options": self.options,
            "spec": self.env.spec,
            "policy": _policy_name(self.policy),
            "start": self.policy.theta,
            "state": {field_: getattr(state, field_) for field_ in RunState.__dataclass_fields__},
        }

    def _check_same(self, out: Path, found: Any) -> None:
        """All but the budget and the spacing of checkpoints must be as they were."""
        mine = json.loads(json.dumps(to_plain(self._document(self._first_state()))))
        for free in ("budget", "checkpoint_every"):
            mine["options"][free] = found["options"][free]
        for part in ("schema", "options", "spec", "policy", "start"):
            if found.get(part) == mine[part]:
                continue
            told = f"{part}"
            if isinstance(mine[part], dict) and isinstance(found.get(part), dict):
                other = [key for key in mine[part] if found[part].get(key) != mine[part][key]]
                told = ", ".join(f"{key}={found[part].get(key)!r} where it is {mine[part][key]!r} now" for key in other)
            raise CheckpointError(
                f"a resumed run must be as it was started, got {told} in {out}; start anew in another folder"
            )

    def _save(self, out: Path, records: RecordWriter, state: RunState) -> None:
        records.sync()  # the records of the updates are on the disk before the state that counts them
        write_json(out / STATE_NAME, self._document(state))

    def _record_start(self, records: RecordWriter, label: str, state: RunState, resume: bool) -> None:
        fields = {
            "system": "safe-policy-gradient",
            "task": self.env.spec.name,
            "label": label or f"{self.options.method} {self.options.bound} {self.options.rule}",
            "seed": self.options.seed,
            "options": self.options,
            "environment_spec": self.env.spec,
            "policy": _policy_name(self.policy),
            "num_parameters": self.policy.num_parameters,
            "guarantee": {**asdict(self.guarantee), "lines": self.guarantee.lines},
            "environment": environment("cpu"),
        }
        if resume:
            records.write("resume", **{**fields, "step": state.step if state.step else -1})
            if state.step:
                return
        records.write("start", **fields)


@dataclass(frozen=True)
class _Bounded:
    """An environment whose bounds were said from outside."""

    inner: Sampler
    spec: EnvironmentSpec

    def collect(self, policy: Policy, num_episodes: int, seed: int) -> Any:
        return self.inner.collect(policy, num_episodes, seed)

    def close(self) -> None:
        self.inner.close()


def _options(options: dict[str, Any]) -> SafeOptions:
    unknown = sorted(options.keys() - SafeOptions.__dataclass_fields__.keys())
    if unknown:
        raise InputError(f"options must be of {', '.join(SafeOptions.__dataclass_fields__)}, got {', '.join(unknown)}")
    return SafeOptions(**options)


def _policy_name(policy: Policy) -> str:
    return f"{type(policy).__name__}({policy.num_parameters})"


def _state_from(found: Any) -> RunState:
    """The state that was written: JSON holds every bit of a float."""
    try:
        value = found["state"]
        last, trial = value["last_return"], value["trial"]
        return RunState(
            theta=torch.tensor([float(each) for each in value["theta"]], dtype=torch.float64),
            step=int(value["step"]),
            num_trajectories=int(value["num_trajectories"]),
            num_steps=int(value["num_steps"]),
            batch_size=int(value["batch_size"]),
            baseline=None if value["baseline"] is None else torch.tensor(value["baseline"], dtype=torch.float64),
            observed=from_plain(Observed, value["observed"], "observed"),
            best_upper=float(value["best_upper"]),
            last_return=None if last is None else (float(last[0]), float(last[1])),
            trial=None
            if trial is None
            else Trial(**{**trial, "theta": torch.tensor(trial["theta"], dtype=torch.float64)}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{STATE_NAME} must hold the state of a run, got {error!r}; start anew") from error


def decreases(updates: tuple[UpdateRecord, ...]) -> int:
    """Updates after which the sampled return was lower, by more than the 95 % interval of the difference; none that were taken back."""
    return sum(update.realised is not None and update.realised.high < 0 and not update.taken_back for update in updates)
