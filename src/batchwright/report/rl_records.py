"""A run of a safe policy gradient as its records tell it: what was promised, and each update with its batch, step and return."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from batchwright.core.records import Records
from batchwright.core.statistics import Interval
from batchwright.report.record_values import number, thin

SYSTEM = "safe-policy-gradient"


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatePoint:
    """One update.

    Attributes:
        step: Its number.
        num_trajectories: Used so far.
        batch_size: Trajectories of this update.
        mean_return: Discounted return before it.
        return_error: Standard error of that.
        step_size: Zero where nothing moved.
        guaranteed: Improvement that was promised.
        realised: What came of it, by the next batch: the difference of the two mean returns; None where there is no next one, or
            where it took this step back.
        true_return: After it, where the environment knows it; NaN elsewhere.
        error: Bound of the gradient's error.
        gradient_size: Of the estimate.
    """

    step: int
    num_trajectories: float
    batch_size: float
    mean_return: float
    return_error: float
    step_size: float
    guaranteed: float
    realised: Interval | None
    true_return: float
    error: float
    gradient_size: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RlRecords:
    """A run.

    Attributes:
        folder: Relative to the folder that was reported.
        task: Name of the environment.
        label: Of the run.
        seed: Of the run.
        options: Of the trainer.
        promise: Sentences on what is guaranteed.
        holds: Whether anything is.
        delta: Probability of failure.
        over: ``update`` or ``run``.
        budget: Trajectories.
        updates: Thinned to what a figure can show, the first and last among them.
        num_updates: All of them.
        num_moves: Those that changed the parameters.
        num_seen_decreases: Moves after which the sampled return was lower beyond its 95 % interval.
        num_true_decreases: Moves after which the true return was lower; None where it is not known.
        promised: Sum of the guaranteed improvements.
        reason: Why it ended.
        train_s: Seconds.
        environment: What it was made on.
        num_torn: Lines that a kill left unfinished.
    """

    folder: str
    task: str
    label: str
    seed: int
    options: Mapping[str, Any]
    promise: tuple[str, ...]
    holds: bool
    delta: float
    over: str
    budget: float
    updates: tuple[UpdatePoint, ...]
    num_updates: int
    num_moves: int
    num_seen_decreases: int
    num_true_decreases: int | None
    promised: float
    reason: str
    train_s: float
    environment: Mapping[str, Any]
    num_torn: int = 0


def parse_rl(records: Records, folder: Path, name: str) -> RlRecords:
    """What the records in ``folder`` say of a safe policy gradient, called ``name``."""
    start = records.of_kind("start")[0]
    ends = records.of_kind("end")
    lines = records.of_kind("update")
    promise = start["guarantee"]
    points = [_point(line, lines[i + 1] if i + 1 < len(lines) else None) for i, line in enumerate(lines)]
    moved = [point for point in points if point.step_size > 0]
    return RlRecords(
        folder=name,
        task=str(start["task"]),
        label=str(start["label"]),
        seed=int(start["seed"]),
        options=dict(start["options"]),
        promise=tuple(str(line) for line in promise["lines"]),
        holds=bool(promise["holds"]),
        delta=1 - float(promise["probability"]),
        over=str(promise["over"]),
        budget=number(start["options"]["budget"]),
        updates=thin(points),
        num_updates=len(points),
        num_moves=len(moved),
        num_seen_decreases=sum(point.realised is not None and point.realised.high < 0 for point in moved),
        num_true_decreases=_true_decreases(points),
        promised=math.fsum(point.guaranteed for point in moved),
        reason=str(ends[-1].get("reason", "")) if ends else "no end",
        train_s=number(ends[-1].get("train_s", 0.0)) if ends else 0.0,
        environment=dict(start.get("environment") or {}),
        num_torn=records.num_torn,
    )


def _point(line: Mapping[str, Any], after: Mapping[str, Any] | None) -> UpdatePoint:
    # A step on trial that was taken back was never in force, and nothing came of it.
    realised = after.get("realised") if after is not None and not after.get("taken_back", False) else None
    return UpdatePoint(
        step=int(line["step"]),
        num_trajectories=number(line["num_trajectories"]),
        batch_size=number(line["batch_size"]),
        mean_return=number(line["mean_return"]),
        return_error=number(line["return_error"]),
        step_size=number(line["step_size"]),
        guaranteed=number(line["guaranteed_improvement"]),
        realised=None
        if realised is None
        else Interval(value=number(realised["value"]), low=number(realised["low"]), high=number(realised["high"])),
        true_return=number(line.get("true_return", math.nan)),
        error=number(line["error_sqrt"]) + number(line["error_linear"]),
        gradient_size=number(line["gradient_size"]),
    )


def _true_decreases(points: list[UpdatePoint]) -> int | None:
    if not points or any(math.isnan(point.true_return) for point in points):
        return None
    return sum(point.true_return < before.true_return for before, point in pairwise(points) if point.step_size > 0)
