"""A search as its journal tells it: settings, trials, the recommendation after each round, and the model on a slice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchwright.core.records import Records
from batchwright.core.statistics import Interval

SYSTEM = "tuning"
# No slice or profile that this library writes has more places.
MAX_PLACES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """A trial.

    Attributes:
        id: Its number.
        round: Its round, from 0.
        values: Setting by name.
        status: ``done``, ``stopped``, ``diverged`` or ``failed``.
        value: Of the metric; NaN where it failed.
        num_examples: That it took.
        seconds: That it took.
        copied_from: Trial whose outcome was taken.
        note: Why it stopped or failed.
    """

    id: int
    round: int
    values: Mapping[str, Any]
    status: str
    value: float
    num_examples: float
    seconds: float
    copied_from: int | None
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The model at places.

    Attributes:
        mean: In the units of the metric.
        std: On the scale of the search.
        worst: Worst mean within the perturbation.
        alive: Whether the optimum may still be there.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    worst: tuple[float, ...]
    alive: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The model along one axis through the recommended setting."""

    name: str
    log: bool
    x: tuple[float, ...]
    view: View


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The model over two axes through the recommended setting; rows along the second one."""

    names: tuple[str, str]
    logs: tuple[bool, bool]
    x: tuple[float, ...]
    y: tuple[float, ...]
    view: View


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningRecords:
    """A search.

    Attributes:
        folder: Relative to the folder that was reported.
        task: Name of the task or function.
        metric: Name of what is searched.
        below: Whether small is good.
        log_scale: Whether the logarithm is modelled.
        plan: Trials in each round.
        method: Name of the bandit.
        robust: Whether a perturbation was asked for.
        seed: Of the search.
        budget: Examples of a trial.
        trials: In the order of asking.
        values: Recommended setting after the last round; empty before the first.
        expected: Its value with two standard deviations of the model; None before the first round.
        worst: Worst expected value within the perturbation.
        plain: Setting of the optimum without regard to perturbations.
        robust_values: Setting of the robust optimum.
        perturbed_by: By how much each setting is off, in words.
        bound: How much better the optimum can be, in words.
        course: Number of trials, expected value and worst value after each round.
        lines: The result in sentences.
        warnings: What makes the bound doubtful.
        slice: None where there are not two numeric axes.
        profiles: One a numeric axis.
        ended: Whether the search came to its end.
        seconds: Wall-clock seconds.
        environment: What it was made on.
        num_torn: Lines that a kill left unfinished.
    """

    folder: str
    task: str
    metric: str
    below: bool
    log_scale: bool
    plan: tuple[int, ...]
    method: str
    robust: bool
    seed: int
    budget: float
    trials: tuple[TrialRecord, ...]
    values: Mapping[str, Any]
    expected: Interval | None
    worst: float
    plain: Mapping[str, Any]
    robust_values: Mapping[str, Any]
    perturbed_by: Mapping[str, str]
    bound: str
    course: tuple[tuple[int, float, float], ...]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    slice: Slice | None
    profiles: tuple[Profile, ...]
    ended: bool
    seconds: float
    environment: Mapping[str, Any]
    num_torn: int = 0


def parse_tuning(records: Records, folder: Path, name: str) -> TuningRecords:
    """What the records in ``folder`` say of a search, called ``name``."""
    start = records.of_kind("start")[0]
    settings, metric = start["settings"], start["settings"]["metric"]
    found, pictures = records.of_kind("recommendation"), records.of_kind("picture")
    last = found[-1] if found else None
    picture = pictures[-1] if pictures else {}
    optima = picture.get("optima", {})
    return TuningRecords(
        folder=name,
        task=str(settings["objective"]),
        metric=str(metric["name"]),
        below=metric["direction"] == "below",
        log_scale=metric["scale"] == "log",
        plan=tuple(int(count) for count in settings["plan"]),
        method=str(settings["method"]),
        robust=settings["radius"] is not None,
        seed=int(settings["seed"]),
        budget=float(settings["num_examples"]),
        trials=tuple(_trial(line) for line in sorted(records.of_kind("trial"), key=lambda line: int(line["id"]))),
        values=dict(last["values"]) if last else {},
        expected=_interval(last["expected"]) if last else None,
        worst=float(last["worst"]) if last else math.nan,
        plain=dict(last["plain"]["values"]) if last else {},
        robust_values=dict(optima.get("robust") or {}),
        perturbed_by={str(key): str(value) for key, value in picture.get("perturbed_by", {}).items()},
        bound=str(last["regret_bound_words"]) if last else "",
        course=_course(found, settings["plan"]),
        lines=tuple(str(line) for line in last["lines"]) if last else (),
        warnings=tuple(str(line) for line in last["warnings"]) if last else (),
        slice=_slice(picture) if picture.get("slice") else None,
        profiles=tuple(_profile(each) for each in picture.get("profiles", ())),
        ended=bool(records.of_kind("end")),
        seconds=float(last["seconds"]) if last else 0.0,
        environment=dict(start.get("environment") or {}),
        num_torn=records.num_torn,
    )


def _trial(line: Mapping[str, Any]) -> TrialRecord:
    outcome, copied = line["outcome"], line.get("copied_from")
    return TrialRecord(
        id=int(line["id"]),
        round=int(line["round"]),
        values=dict(line["values"]),
        status=str(outcome["status"]),
        value=float(outcome["value"]),
        num_examples=float(outcome["num_examples"]),
        seconds=float(outcome["seconds"]),
        copied_from=None if copied is None else int(copied),
        note=str(outcome["note"]),
    )


def _interval(value: Mapping[str, Any]) -> Interval:
    middle = float(value["value"])
    # The mean of a perturbed search is a worst one, so it may lie beside its own centre.
    return Interval(value=middle, low=min(float(value["low"]), middle), high=max(float(value["high"]), middle))


def _course(found: Sequence[Mapping[str, Any]], plan: Sequence[int]) -> tuple[tuple[int, float, float], ...]:
    by_round = {int(line["round"]): line for line in found}
    return tuple(
        (sum(int(each) for each in plan[: number + 1]), float(line["expected"]["value"]), float(line["worst"]))
        for number, line in sorted(by_round.items())
    )


def _view(value: Mapping[str, Any], number: int) -> View:
    if number > MAX_PLACES or any(len(value[name]) != number for name in ("mean", "std", "worst", "alive")):
        raise ValueError(f"a view must hold {number} places")
    return View(
        mean=tuple(float(each) for each in value["mean"]),
        std=tuple(float(each) for each in value["std"]),
        worst=tuple(float(each) for each in value["worst"]),
        alive=tuple(bool(each) for each in value["alive"]),
    )


def _profile(value: Mapping[str, Any]) -> Profile:
    x = tuple(float(each) for each in value["x"])
    return Profile(name=str(value["name"]), log=bool(value["log"]), x=x, view=_view(value, len(x)))


def _slice(picture: Mapping[str, Any]) -> Slice:
    drawn, axes = picture["slice"], picture["axes"]
    x, y = (tuple(float(each) for each in drawn[name]) for name in ("x", "y"))
    return Slice(
        names=(str(axes[0]["name"]), str(axes[1]["name"])),
        logs=(bool(axes[0]["log"]), bool(axes[1]["log"])),
        x=x,
        y=y,
        view=_view(drawn, len(x) * len(y)),
    )
