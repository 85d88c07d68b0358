"""One training run at a constant learning rate: to a target, or for a number of steps, with evaluations in between."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Subset

from batchwright.core.errors import NonFiniteLossError
from batchwright.core.preserve import RandomState
from batchwright.data.access import num_examples
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import train_steps
from batchwright.optim.build import build_optimizer
from batchwright.tasks.evaluation import evaluate
from batchwright.tasks.task import OptimizerSpec, Target, Task

# Evaluations in this last part of the steps are averaged; a passage is seen so many times later than where it is put.
WINDOW = 0.25
LATER = (1 - WINDOW) ** -0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a run did.

    Attributes:
        steps: Optimizer steps to the target, as `crossing_of` finds them; None if it was not reached.
        curve: Step and value of the target's metric at each evaluation.
        num_steps: Steps done.
        lost: Whether a training loss was not finite.
    """

    steps: float | None
    curve: tuple[tuple[int, float], ...]
    num_steps: int
    lost: bool

    @property
    def last(self) -> float:
        """The last value of the metric; NaN before the first."""
        return self.curve[-1][1] if self.curve else math.nan


def judged_by(task: Task, limit: int) -> Task:
    """The task with at most ``limit`` examples of its evaluation set, evenly spaced: evaluations would cost as much as the steps."""
    data = task.evaluation if task.evaluation is not None else task.train
    length = num_examples(data, "evaluation")
    if length <= limit:
        return replace(task, evaluation=data)
    return replace(task, evaluation=Subset(data, [index * length // limit for index in range(limit)]))


def evaluation_steps(first: int, last: int, *, ratio: float = 1.0, gap: int = 1) -> Iterator[int]:
    """Steps from ``first`` on, each ``ratio`` times the one before and at least ``gap`` later, up to ``last``, which is among them.

    Example:
        >>> list(evaluation_steps(10, 40, ratio=1.5))
        [10, 15, 23, 35, 40]
    """
    step = min(max(1, first), last)
    while step < last:
        yield step
        step = max(step + gap, math.ceil(step * ratio))
    yield last


def run_trial(
    task: Task,
    spec: OptimizerSpec,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    steps: Iterator[int],
    target: Target,
    stop_at_target: bool = True,
) -> Outcome:
    """Train from scratch and evaluate after each of ``steps``; the last of them ends the run.

    Model, data order and every random number follow from ``seed``, so runs with one seed differ by the optimizer alone.
    """
    random_state = RandomState.capture()
    try:
        torch.manual_seed(seed)
        model = task.make_model(seed, device)
        optimizer = build_optimizer(spec, model)
        sampler = EpochSampler(task.num_train, seed)
        curve: list[tuple[int, float]] = []
        done, reached, lost = 0, None, False
        for step in steps:
            try:
                train_steps(
                    task, model, optimizer, sampler, batch_size=batch_size, num_steps=step - done, after_step=_finite
                )
            except NonFiniteLossError:
                lost = True
                break
            done = step
            curve.append((step, evaluate(task, model).values[target.metric]))
            if not math.isfinite(curve[-1][1]):
                lost = True
                break
            reached = reached if reached is not None else crossing_of(curve, target)
            if reached is not None and stop_at_target:
                break
    finally:
        random_state.restore()
    return Outcome(steps=reached, curve=tuple(curve), num_steps=done, lost=lost)


def crossing_of(curve: Sequence[tuple[int, float]], target: Target) -> float | None:
    """Steps at which a smoothed curve first passes the target, on a straight line over the logarithm of the steps; None if it does not.

    A curve whose first evaluation is past the target has passed it by then.
    """
    before: tuple[float, float] | None = None
    for step, value in smoothed(curve):
        if target.reached(value):
            if before is None or before[1] == value:
                return step
            part = min(max((target.value - before[1]) / (value - before[1]), 0.0), 1.0)
            return math.exp(math.log(before[0]) + part * math.log(step / before[0]))
        before = step, value
    return None


def smoothed(curve: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """The mean of the evaluations in the last quarter of the steps, at the geometric mean of their steps.

    At a constant learning rate the loss swings, the more the smaller the batch, and a single evaluation passes the target early by
    luck: on the noisy quadratic that took half of the critical batch size away.

    Example:
        >>> smoothed([(10, 4.0), (40, 2.0), (50, 1.0)])[:2]
        [(10.0, 4.0), (40.0, 2.0)]
    """
    found = []
    for step, _ in curve:
        part = [(each, value) for each, value in curve if (1 - WINDOW) * step <= each <= step]
        place = math.exp(sum(math.log(each) for each, _ in part) / len(part))
        found.append((place, sum(value for _, value in part) / len(part)))
    return found


def _finite(step: int, mean: Tensor) -> None:
    if not math.isfinite(float(mean)):
        raise NonFiniteLossError(f"loss must stay finite, got {float(mean)} at step {step}")
