"""Verify a plan by a small sweep around it: the regret is what the plan costs over the best that was found."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchwright.core.errors import InputError
from batchwright.core.records import make_folder, write_json
from batchwright.core.statistics import Interval, student_quantile
from batchwright.planning.laws import scale_lr
from batchwright.planning.plan import Plan
from batchwright.tasks.task import Task
from batchwright.training.sweep import HOPELESS, Setting, Trial, sweep

VERIFICATION_NAME = "verification.json"
BATCH_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
LR_FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """A sweep around a plan.

    Attributes:
        task: Name of the task.
        plan_batch_size: The plan's.
        plan_lr: The plan's.
        metric: What the target is about.
        trials: Every run.
        regret_examples: Examples to target at the plan over the fewest found, both means over seeds; infinite if the plan did not get
            there. The interval is over seeds, of the pair of settings: the best is chosen by the same numbers, so a regret is if
            anything overstated.
        regret_seconds: The same in seconds of training.
        best_examples: The setting with the fewest examples.
        best_seconds: The setting with the least time.
        notes: What a reader should know.
    """

    task: str
    plan_batch_size: int
    plan_lr: float
    metric: str
    trials: tuple[Trial, ...]
    regret_examples: Interval | None
    regret_seconds: Interval | None
    best_examples: Setting | None
    best_seconds: Setting | None
    notes: tuple[str, ...]


def verify(
    task: Task,
    plan: Plan,
    *,
    out: str | Path,
    batch_factors: Sequence[float] = BATCH_FACTORS,
    lr_factors: Sequence[float] = LR_FACTORS,
    num_seeds: int = 3,
    device: str = "auto",
    on_trial: Callable[[int, int, Trial], None] | None = None,
) -> Verification:
    """Train to the target on a grid of batch sizes and learning rates around the plan, and write ``verification.json``.

    At each batch size the learning rates are the plan's rule times ``lr_factors``.

    Args:
        task: The task of the plan, with a target.
        plan: What is to be verified.
        out: Folder for the runs and the result.
        batch_factors: Batch sizes over the plan's; 1 is always among them.
        lr_factors: Learning rates over the rule's; 1 is always among them.
        num_seeds: Repeats of each setting.
        device: As in `train`.
        on_trial: Called after each trial with its number, the number of all, and the trial.

    Raises:
        InputError: If the task has no target.
    """
    if task.target is None:
        raise InputError(
            f"--verify needs a task with a target, got none for {task.name!r}; give it a batchwright.Target"
        )
    folder = make_folder(Path(out))
    settings = grid(task, plan, batch_factors, lr_factors)
    trials = sweep(
        task,
        settings,
        out=folder,
        micro_batch_size=plan.micro_batch_size if plan.micro_batch_size < plan.batch_size else None,
        num_seeds=num_seeds,
        device=device,
        on_trial=on_trial,
    )
    chosen = Setting(batch_size=plan.batch_size, lr=plan.lr)
    regret_examples, best_examples = regret(trials, chosen, "examples")
    regret_seconds, best_seconds = regret(trials, chosen, "seconds")
    result = Verification(
        task=task.name,
        plan_batch_size=plan.batch_size,
        plan_lr=plan.lr,
        metric=task.target.metric,
        trials=trials,
        regret_examples=regret_examples,
        regret_seconds=regret_seconds,
        best_examples=best_examples,
        best_seconds=best_seconds,
        notes=_notes(trials, settings, best_seconds),
    )
    write_json(folder / VERIFICATION_NAME, result)
    return result


def grid(task: Task, plan: Plan, batch_factors: Sequence[float], lr_factors: Sequence[float]) -> list[Setting]:
    """The settings of the sweep; the plan's own comes first, so that hopeless ones are known early."""
    sizes = {min(max(1, round(plan.batch_size * factor)), task.num_train) for factor in {*batch_factors, 1.0}}
    critical = plan.intervals["critical_batch_size"].value

    def rule(size: int) -> float:
        if size == plan.batch_size:
            return plan.lr  # to the last bit: the plan's own setting is looked up again
        return scale_lr(
            task.optimizer.name,
            plan.lr,
            base_batch_size=plan.batch_size,
            batch_size=size,
            critical_batch_size=critical,
        )

    settings = [Setting(batch_size=size, lr=factor * rule(size)) for size in sizes for factor in {*lr_factors, 1.0}]
    return sorted(
        settings,
        key=lambda each: (abs(math.log(each.batch_size / plan.batch_size)), abs(math.log(each.lr / plan.lr)), each.lr),
    )


def regret(trials: Sequence[Trial], chosen: Setting, unit: str) -> tuple[Interval | None, Setting | None]:
    """Mean cost over seeds at the chosen setting over that at the best one; None where no setting always got there.

    Args:
        trials: Of a sweep that holds the chosen setting, every setting with the same seeds.
        chosen: The setting to judge.
        unit: ``steps``, ``examples`` or ``seconds``.
    """
    costs: dict[Setting, np.ndarray] = {
        setting: np.array([getattr(trial, unit) if trial.reached else math.inf for trial in group])
        for setting, group in by_setting(trials).items()
    }
    best = min(costs, key=lambda setting: float(costs[setting].mean()))
    if not math.isfinite(costs[best].mean()):
        return None, None
    mine = costs[chosen]
    ratio = float(mine.mean() / costs[best].mean())
    if not math.isfinite(ratio):
        return Interval(value=math.inf, low=1.0, high=math.inf), best
    logs = np.log(mine / costs[best])
    half = math.inf
    if len(logs) > 1:
        half = student_quantile(0.95, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    high = math.inf if half > 100 else ratio * math.exp(half)
    return Interval(value=ratio, low=ratio * math.exp(-half), high=high), best


def by_setting(trials: Sequence[Trial]) -> dict[Setting, list[Trial]]:
    """The trials of each setting, in the order of their seeds."""
    groups: dict[Setting, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(Setting(batch_size=trial.batch_size, lr=trial.lr), []).append(trial)
    return groups


def _notes(trials: Sequence[Trial], settings: Sequence[Setting], best: Setting | None) -> tuple[str, ...]:
    notes = []
    missed = sum(not trial.reached for trial in trials)
    if missed:
        notes.append(
            f"{missed} of {len(trials)} runs did not reach the target in {HOPELESS:g} times the fewest examples"
        )
    if best is not None:
        sizes, lrs = (
            [each.batch_size for each in settings],
            [each.lr for each in settings if each.batch_size == best.batch_size],
        )
        if best.batch_size in (min(sizes), max(sizes)):
            notes.append(
                f"the fastest batch size, {best.batch_size}, is at the edge of the sweep: a better one may lie outside"
            )
        if best.lr in (min(lrs), max(lrs)):
            notes.append(f"the best lr at batch size {best.batch_size}, {best.lr:.3g}, is at the edge of the sweep")
    return tuple(notes)
