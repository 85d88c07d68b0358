"""The result of a run, how far it is, and the instant at which it reached its target."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from batchwright.tasks.evaluation import Evaluation
from batchwright.tasks.task import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a progress bar shows after a step."""

    step: int
    num_examples: int
    max_examples: int
    batch_size: int
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ToTarget:
    """What a run needed to reach its target, interpolated between the two evaluations around it.

    Attributes:
        steps: Optimizer steps.
        examples: Training examples.
        seconds: Seconds of training steps, without evaluations and checkpoints.
    """

    steps: float
    examples: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Instant:
    """Counters and the target's metric at one evaluation."""

    step: int
    num_examples: int
    train_s: float
    value: float


def crossing(target: Target, before: Instant | None, after: Instant) -> ToTarget | None:
    """Where a straight line between two evaluations passes the target; None while the later one is short of it."""
    if not target.reached(after.value):
        return None
    part = 1.0
    if before is not None and after.value != before.value:
        part = min(max((target.value - before.value) / (after.value - before.value), 0.0), 1.0)
    start = before or Instant(step=0, num_examples=0, train_s=0.0, value=after.value)
    return ToTarget(
        steps=start.step + part * (after.step - start.step),
        examples=start.num_examples + part * (after.num_examples - start.num_examples),
        seconds=start.train_s + part * (after.train_s - start.train_s),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """A finished or interrupted run.

    Attributes:
        folder: Where its records and checkpoints are.
        model: The trained model.
        label: As in its settings.
        seed: As in its settings.
        reason: ``target``, ``limit`` or ``interrupted``.
        num_steps: Optimizer steps.
        num_examples: Training examples.
        train_s: Seconds of training steps.
        batch_size: Of the last step.
        to_target: What the target took; None if it was not reached.
        evaluation: The last one.
        notes: What a reader should know, such as a damaged checkpoint that was passed over.
    """

    folder: Path
    model: nn.Module
    label: str
    seed: int
    reason: str
    num_steps: int
    num_examples: int
    train_s: float
    batch_size: int
    to_target: ToTarget | None
    evaluation: Evaluation | None
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> Mapping[str, float]:
        """Loss and metrics of the last evaluation."""
        return self.evaluation.values if self.evaluation else {}
