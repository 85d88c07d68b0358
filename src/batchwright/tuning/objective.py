"""What a trial runs: the training of a task at a setting, or a function of the user's."""

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.environment import resolve_device
from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import train_steps
from batchwright.optim.build import build_optimizer
from batchwright.tasks.evaluation import evaluate
from batchwright.tasks.loading import load_task
from batchwright.tasks.task import OptimizerSpec, Task
from batchwright.tuning.early_stop import foreseen, hopeless
from batchwright.tuning.outcome import Incumbent, Metric, Outcome, Point

# Evaluations of a trial, evenly over its examples, beside the one of the untrained model.
NUM_EVALUATIONS = 12
# What a space may name for a task.
OF_OPTIMIZER = ("lr", "momentum", "beta2", "weight_decay")
KNOWN = (*OF_OPTIMIZER, "batch_size", "optimizer")

Values = Mapping[str, float | int | str]
# Tasks that this process has loaded: a worker makes many trials of one task.
_LOADED: dict[tuple[str, str | None], Task] = {}


class Stopped(Exception):  # noqa: N818 - no error: a trial's way out
    """A trial has no chance left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskObjective:
    """The metric of a task after a budget of examples, as a function of training settings.

    Attributes:
        task: What is trained; a name travels to any worker, a `Task` must be picklable.
        metric: ``loss`` or one of the task's metrics, with its direction and scale.
        num_examples: Budget of a trial.
        early_stop: Whether hopeless trials end early.
        micro_batch_size: Most examples in one forward pass.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        data_root: Folder of real data sets.
    """

    task: str | Task
    metric: Metric
    num_examples: int
    early_stop: bool = True
    micro_batch_size: int | None = None
    device: str = "auto"
    data_root: str | None = None

    @property
    def name(self) -> str:
        """Of the task."""
        return self.task if isinstance(self.task, str) else self.task.name

    def key(self, values: Values, seed: int) -> tuple[Any, ...]:
        """Two trials of one key come to the same."""
        return (*sorted(values.items()), seed)

    def __call__(self, values: Values, seed: int, incumbent: Incumbent | None) -> Outcome:
        """Train a fresh model at a setting; the global random generators are left as they were."""
        random_state = RandomState.capture()
        try:
            return self._train(values, seed, incumbent)
        finally:
            random_state.restore()

    def _train(self, values: Values, seed: int, incumbent: Incumbent | None) -> Outcome:
        task, start = self._loaded(), time.perf_counter()
        spec, batch_size = setting_of(task, values)
        device = resolve_device(self.device)
        torch.manual_seed(seed)
        model = task.make_model(seed, device)
        optimizer = build_optimizer(spec, model)
        sampler = EpochSampler(task.num_train, seed)
        curve = [self._evaluate(task, model, 0)]
        done, next_evaluation = 0, 1
        last: list[Tensor] = []
        while done < self.num_examples:
            train_steps(
                task,
                model,
                optimizer,
                sampler,
                batch_size=batch_size,
                num_steps=1,
                micro_batch_size=self.micro_batch_size,
                after_step=lambda _, mean: last.append(mean),
            )
            done += batch_size
            # Large batches pass several marks in a step, and each evaluation is made once.
            if done < min(self.num_examples, next_evaluation * self.num_examples / NUM_EVALUATIONS):
                continue
            next_evaluation = int(done * NUM_EVALUATIONS / self.num_examples) + 1
            finite = all(math.isfinite(float(each)) for each in last)
            last.clear()
            if finite:
                curve.append(self._evaluate(task, model, done))
            if not finite or not math.isfinite(curve[-1].value):
                break
            rival = incumbent if self.early_stop and done < self.num_examples else None
            if hopeless(curve, self.num_examples, rival, self.metric):
                break
        return self._outcome(curve, done, time.perf_counter() - start)

    def _outcome(self, curve: list[Point], done: int, seconds: float) -> Outcome:
        first, end = curve[0], curve[-1]
        told: dict[str, Any] = {"curve": tuple(curve), "num_examples": done, "seconds": seconds}
        whole = end.num_examples >= self.num_examples
        if not math.isfinite(end.value) or (not whole and end.num_examples < done):
            return Outcome(status="diverged", value=first.value, note="a loss was not finite", **told)
        # On a curve that is worse than no training, how much worse says nothing of its neighbours, and would rule the model.
        if self.metric.better(first.value, end.value):
            return Outcome(
                status="diverged", value=first.value, note="worse at its end than the untrained model", **told
            )
        if not whole:
            value = self.metric.raw(foreseen(curve, self.num_examples, self.metric)[0])
            note = f"stopped at {end.value:.4g} after {end.num_examples:,} examples: no chance left"
            return Outcome(status="stopped", value=value, standard_error=end.standard_error, note=note, **told)
        return Outcome(status="done", value=end.value, standard_error=end.standard_error, **told)

    def _evaluate(self, task: Task, model: torch.nn.Module, done: int) -> Point:
        found, name = evaluate(task, model), self.metric.name
        return Point(num_examples=done, value=found.values[name], standard_error=found.standard_errors[name])

    def _loaded(self) -> Task:
        if isinstance(self.task, Task):
            return self.task
        key = (self.task, self.data_root)
        if key not in _LOADED:
            _LOADED[key] = load_task(self.task, data_root=Path(self.data_root) if self.data_root else None)
        return _LOADED[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionObjective:
    """A function of a setting: ``f(values) -> float``; ``seed`` and ``trial`` are given to it where it has arguments of these names.

    Attributes:
        function: Picklable for workers in other processes, so defined at the top of a module.
        metric: What the number is.
        num_examples: Budget in the unit that ``trial.report`` counts in; 0 where it reports nothing.
        early_stop: Whether hopeless trials that report end early.
    """

    function: Callable[..., float]
    metric: Metric
    num_examples: int = 0
    early_stop: bool = True

    @property
    def name(self) -> str:
        """Of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def key(self, values: Values, seed: int) -> tuple[Any, ...]:
        """Two trials of one key come to the same: without a seed, those of one setting."""
        return (*sorted(values.items()), *([seed] if "seed" in self._names() else []))

    def __call__(self, values: Values, seed: int, incumbent: Incumbent | None) -> Outcome:
        """Call the function."""
        start = time.perf_counter()
        reporter = Reporter(self, incumbent if self.early_stop else None)
        given = {name: each for name, each in (("seed", seed), ("trial", reporter)) if name in self._names()}
        try:
            value = float(self.function(dict(values), **given))
        except Stopped:
            value = self.metric.raw(foreseen(reporter.curve, self.num_examples, self.metric)[0])
            end = reporter.curve[-1]
            return Outcome(
                status="stopped",
                value=value,
                standard_error=end.standard_error,
                curve=tuple(reporter.curve),
                num_examples=end.num_examples,
                seconds=time.perf_counter() - start,
                note=f"stopped at {end.value:.4g} after {end.num_examples:,}: no chance left",
            )
        seconds, curve = time.perf_counter() - start, tuple(reporter.curve)
        if not math.isfinite(value):
            return Outcome(
                status="failed", value=math.nan, curve=curve, seconds=seconds, note=f"the function returned {value}"
            )
        done = curve[-1].num_examples if curve else self.num_examples
        error = curve[-1].standard_error if curve else 0.0
        return Outcome(
            status="done", value=value, standard_error=error, curve=curve, num_examples=done, seconds=seconds
        )

    def _names(self) -> set[str]:
        try:
            return set(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):  # a callable written in C tells nothing
            return set()


class Reporter:
    """How a user's function tells where it is, so that it can be stopped early."""

    def __init__(self, objective: FunctionObjective, incumbent: Incumbent | None) -> None:
        self.objective, self.incumbent = objective, incumbent
        self.curve: list[Point] = []

    def report(self, num_examples: int, value: float, standard_error: float = 0.0) -> None:
        """Say the value after so many examples; ends the trial where it has no chance left.

        Raises:
            InputError: If the budget was not given.
        """
        objective = self.objective
        if objective.num_examples <= 0:
            raise InputError("trial.report needs the budget of a trial, got none; give bw.tune(max_examples=...)")
        self.curve.append(Point(num_examples=num_examples, value=value, standard_error=standard_error))
        if num_examples < objective.num_examples and hopeless(
            self.curve, objective.num_examples, self.incumbent, objective.metric
        ):
            raise Stopped


Objective = TaskObjective | FunctionObjective


def task_objective(
    task: str | Task,
    *,
    metric: str | None = None,
    max_examples: int | None = None,
    early_stop: bool = True,
    micro_batch_size: int | None = None,
    device: str = "auto",
    data_root: Path | None = None,
) -> TaskObjective:
    """The objective of a task, with the metric, direction and budget that it names itself.

    Args:
        task: Built-in name, ``file.py:make_task``, ``package.module:make_task``, or the task.
        metric: ``loss`` or one of the task's metrics; that of its target, or ``loss``, where left out.
        max_examples: Budget of a trial; the task's limit where left out.
        early_stop: Whether hopeless trials end early.
        micro_batch_size: Most examples in one forward pass.
        device: Of the trials.
        data_root: Folder of real data sets.

    Raises:
        InputError: If the metric is none of the task's.
    """
    loaded = task if isinstance(task, Task) else load_task(task, data_root=data_root)
    target = loaded.target
    name = metric or (target.metric if target else "loss")
    if name != "loss" and name not in loaded.metrics:
        raise InputError(f"--metric must be one of {', '.join(['loss', *loaded.metrics])}, got {name!r}")
    direction = target.direction if target and target.metric == name else "below" if name == "loss" else "above"
    scale = "log" if name == "loss" and direction == "below" else "linear"
    budget = loaded.example_limit if max_examples is None else max_examples
    return TaskObjective(
        task=task,
        metric=Metric(name=name, direction=direction, scale=scale),
        num_examples=check_int("max_examples", budget, at_least=1),
        early_stop=early_stop,
        micro_batch_size=micro_batch_size,
        device=device,
        data_root=str(data_root) if data_root is not None else None,
    )


def setting_of(task: Task, values: Values) -> tuple[OptimizerSpec, int]:
    """The optimizer and the batch size of a setting; the task's own where it does not name them.

    Raises:
        InputError: If it names what a task does not have, or the batch is larger than the data set.
    """
    unknown = sorted(set(values) - set(KNOWN))
    if unknown:
        raise InputError(
            f"--space of a task must name some of {', '.join(KNOWN)}, got {', '.join(unknown)}; "
            "tune other things by a function of your own"
        )
    batch_size = int(values.get("batch_size", task.batch_size))
    if batch_size > task.num_train:
        raise InputError(
            f"batch_size must be at most the number of training examples, got {batch_size} for {task.num_train}; "
            "lower its end in --space"
        )
    changes: dict[str, Any] = {name: float(values[name]) for name in OF_OPTIMIZER if name in values}
    if "optimizer" in values:
        changes["name"] = str(values["optimizer"])
    return replace(task.optimizer, **changes), batch_size
