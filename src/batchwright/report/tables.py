"""Runs as rows of numbers: one row a run, and one a label with the mean and interval over its seeds."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from batchwright.core.statistics import Interval, mean_interval
from batchwright.report.run_records import RunRecords, ToTargetRecord
from batchwright.report.text import natural_key


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run.

    Attributes:
        folder: Relative to the folder that was reported.
        task: Name of the task.
        label: Of the run.
        seed: Of the run.
        policy: Name of the controller.
        batch_size: Of the first step.
        last_batch_size: Of the last step.
        lr: At ``batch_size``.
        num_steps: Optimizer steps done.
        num_examples: Training examples seen.
        train_s: Seconds of training steps.
        to_target: What the target took; None if it was not reached.
        metric: Name of the metric.
        final: Its last value; NaN if there is none.
        standard_error: Of ``final`` over the evaluation set; NaN if unknown.
        reason: Why the run ended.
        outcome: ``reached``, ``not reached``, ``unfinished`` (interrupted, or without an end) or ``no target``.
    """

    folder: str
    task: str
    label: str
    seed: int
    policy: str
    batch_size: float
    last_batch_size: float
    lr: float
    num_steps: int
    num_examples: float
    train_s: float
    to_target: ToTargetRecord | None
    metric: str
    final: float
    standard_error: float
    reason: str
    outcome: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryRow:
    """The runs of one label.

    Attributes:
        task: Name of the task.
        label: Of the runs.
        batch_sizes: Different first batch sizes, sorted.
        last_batch_sizes: Different last ones, sorted.
        lrs: Different learning rates, sorted.
        num_runs: All of them.
        num_reached: Those that reached their target; ``steps``, ``examples`` and ``seconds`` are over these alone.
        num_not_reached: Those that ended short of it.
        num_unfinished: Those that were interrupted or have no end, and may still reach it.
        steps: Optimizer steps to target, mean and Student interval over seeds; None if none reached it.
        examples: Training examples to target, likewise.
        seconds: Seconds of training to target, likewise.
        metric: Name of the metric.
        final: Its last value, mean and Student interval over all runs that have one; None if none has.
    """

    task: str
    label: str
    batch_sizes: tuple[float, ...]
    last_batch_sizes: tuple[float, ...]
    lrs: tuple[float, ...]
    num_runs: int
    num_reached: int
    num_not_reached: int
    num_unfinished: int
    steps: Interval | None
    examples: Interval | None
    seconds: Interval | None
    metric: str
    final: Interval | None


def run_rows(runs: Sequence[RunRecords]) -> tuple[RunRow, ...]:
    """One row a run, by task, label and seed."""
    rows = [_row(run) for run in runs]
    return tuple(sorted(rows, key=lambda row: (row.task, natural_key(row.label), row.seed, natural_key(row.folder))))


def summarise(runs: Sequence[RunRecords]) -> tuple[SummaryRow, ...]:
    """One row a task and label, with means and 95 % Student intervals over its runs.

    A run that did not reach its target is counted as such and never averaged with those that did.
    """
    groups: dict[tuple[str, str], list[RunRow]] = defaultdict(list)
    for row in run_rows(runs):
        groups[row.task, row.label].append(row)
    return tuple(_summary(rows) for rows in groups.values())


def _row(run: RunRecords) -> RunRow:
    last = run.evaluations[-1] if run.evaluations else None
    return RunRow(
        folder=run.folder,
        task=run.task,
        label=run.label,
        seed=run.seed,
        policy=run.policy,
        batch_size=run.batch_size,
        last_batch_size=run.last_batch_size,
        lr=run.lr,
        num_steps=run.num_steps,
        num_examples=run.num_examples,
        train_s=run.train_s,
        to_target=run.to_target,
        metric=run.metric,
        final=last.values.get(run.metric, math.nan) if last else math.nan,
        standard_error=last.standard_errors.get(run.metric, math.nan) if last else math.nan,
        reason=run.reason,
        outcome=_outcome(run),
    )


def _outcome(run: RunRecords) -> str:
    if run.to_target is not None:
        return "reached"
    if run.reason in ("interrupted", "no end"):
        return "unfinished"
    return "not reached" if run.target is not None else "no target"


def _summary(rows: Sequence[RunRow]) -> SummaryRow:
    outcomes = Counter(row.outcome for row in rows)
    reached = [row.to_target for row in rows if row.to_target is not None]
    return SummaryRow(
        task=rows[0].task,
        label=rows[0].label,
        batch_sizes=tuple(sorted({row.batch_size for row in rows})),
        last_batch_sizes=tuple(sorted({row.last_batch_size for row in rows})),
        lrs=tuple(sorted({row.lr for row in rows})),
        num_runs=len(rows),
        num_reached=outcomes["reached"],
        num_not_reached=outcomes["not reached"],
        num_unfinished=outcomes["unfinished"],
        steps=_mean([found.steps for found in reached]),
        examples=_mean([found.examples for found in reached]),
        seconds=_mean([found.seconds for found in reached]),
        metric=rows[0].metric,
        final=_mean([row.final for row in rows if row.metric == rows[0].metric and math.isfinite(row.final)]),
    )


def _mean(values: Sequence[float]) -> Interval | None:
    return mean_interval(values) if values else None
