"""Train to a target at several batch sizes and learning rates, each with several seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchwright.core.errors import InputError, NonFiniteLossError
from batchwright.core.records import make_folder
from batchwright.tasks.task import Task
from batchwright.training.loop import train

# A trial that has used this many times the fewest examples found so far is given up: no sweep is about such sizes.
HOPELESS = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A batch size with its learning rate."""

    batch_size: int
    lr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of the sweep.

    Attributes:
        batch_size: Examples in a step.
        lr: Learning rate.
        seed: Of the run.
        reached: Whether it got to the target before it was hopeless.
        steps: Optimizer steps to target; None if not reached.
        examples: Examples to target.
        seconds: Seconds of training steps to target.
    """

    batch_size: int
    lr: float
    seed: int
    reached: bool
    steps: float | None
    examples: float | None
    seconds: float | None


def sweep(
    task: Task,
    settings: Sequence[Setting],
    *,
    out: str | Path,
    micro_batch_size: int | None = None,
    num_seeds: int = 3,
    device: str = "auto",
    on_trial: Callable[[int, int, Trial], None] | None = None,
) -> tuple[Trial, ...]:
    """Train at each setting until the target is reached or hopeless.

    Args:
        task: With a target.
        settings: In the order in which they are to be run; the likeliest first, so that hopeless ones are known early.
        out: Folder for the runs.
        micro_batch_size: Most examples in one forward pass.
        num_seeds: Repeats of each setting.
        device: As in `train`.
        on_trial: Called after each trial with its number, the number of all, and the trial.

    Raises:
        InputError: If the task has no target.
    """
    if task.target is None:
        raise InputError(
            f"a sweep needs a task with a target, got none for {task.name!r}; give it a batchwright.Target"
        )
    folder = make_folder(Path(out))
    trials: list[Trial] = []
    for setting in settings:
        for seed in range(num_seeds):
            fewest = min((trial.examples for trial in trials if trial.examples is not None), default=math.inf)
            # A few steps are always allowed: with a large batch they are many examples.
            limit = min(task.example_limit, max(HOPELESS * fewest, 8 * setting.batch_size))
            trials.append(_trial(task, setting, seed, folder, int(limit), micro_batch_size, device))
            if on_trial is not None:
                on_trial(len(trials), len(settings) * num_seeds, trials[-1])
    return tuple(trials)


def _trial(
    task: Task, setting: Setting, seed: int, folder: Path, limit: int, micro_batch_size: int | None, device: str
) -> Trial:
    try:
        run = train(
            task,
            out=folder / f"batch-{setting.batch_size}-lr-{setting.lr:.4g}-seed-{seed}",
            batch_size=setting.batch_size,
            micro_batch_size=min(micro_batch_size or setting.batch_size, setting.batch_size),
            lr=setting.lr,
            seed=seed,
            label=f"batch {setting.batch_size}, lr {setting.lr:.3g}",
            max_examples=limit,
            checkpoint_every=10**9,
            device=device,
        )
        found = run.to_target
        if run.reason == "interrupted":
            raise KeyboardInterrupt  # who stops a sweep means all of it, not the trial under way
    except NonFiniteLossError:
        found = None
    return Trial(
        batch_size=setting.batch_size,
        lr=setting.lr,
        seed=seed,
        reached=found is not None,
        steps=found.steps if found else None,
        examples=found.examples if found else None,
        seconds=found.seconds if found else None,
    )
