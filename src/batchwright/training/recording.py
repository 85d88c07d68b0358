"""The records of a run that the loop writes by itself: where it started, its steps and evaluations, and how it ended."""

from dataclasses import asdict

import torch

from batchwright.core.environment import environment
from batchwright.core.records import RecordWriter
from batchwright.tasks.task import Task
from batchwright.training.launch import launcher
from batchwright.training.settings import TrainSettings
from batchwright.training.state import LoopState

# Records of steps thin out as the run goes on: the next comes after this part of what is done so far.
STEP_SPACING = 0.02


def next_record(step: int) -> int:
    """The step of the next record of a kind that is not wanted at every step."""
    return step + max(1, int(STEP_SPACING * step))


def record_start(
    records: RecordWriter, task: Task, settings: TrainSettings, device: torch.device, world_size: int
) -> None:
    """What is trained, how, and on what."""
    records.write(
        "start",
        task=task.name,
        label=settings.label,
        seed=settings.seed,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        optimizer=settings.optimizer,
        policy=settings.policy,
        target=asdict(task.target) if task.target else None,
        num_train=task.num_train,
        settings=settings,
        environment=environment(device),
        world_size=world_size,
        launcher=launcher(),
    )


def record_step(records: RecordWriter, state: LoopState, lr: float) -> None:
    """The mean loss since the last such record."""
    records.write(
        "step",
        step=state.step,
        num_examples=state.num_examples,
        batch_size=state.batch_size,
        lr=lr,
        loss=sum(state.losses) / len(state.losses),
        train_s=state.train_s,
    )
    state.losses.clear()
    state.next_step_record = next_record(state.step)


def record_evaluation(records: RecordWriter, state: LoopState) -> None:
    """The last evaluation."""
    assert state.evaluation is not None  # the loop has just made it
    records.write(
        "evaluation",
        step=state.step,
        num_examples=state.num_examples,
        train_s=state.train_s,
        values=state.evaluation.values,
        standard_errors=state.evaluation.standard_errors,
    )


def record_end(records: RecordWriter, state: LoopState, reason: str, message: str) -> None:
    """Why the run ended, and what its target took."""
    records.write(
        "end",
        step=state.step,
        num_examples=state.num_examples,
        train_s=state.train_s,
        reason=reason,
        message=message,
        to_target=state.to_target,
    )
