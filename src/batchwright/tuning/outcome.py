"""What a trial came to, and the scale on which a bandit sees it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchwright.core.checks import check_choice, check_number
from batchwright.core.serialization import to_plain

STATUSES = ("done", "stopped", "diverged", "failed")
SCALES = ("linear", "log")
# A loss below this is told as this on a logarithmic scale: zero has no logarithm.
SMALLEST = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One evaluation on the way of a trial.

    Attributes:
        num_examples: Training examples so far.
        value: Of the metric.
        standard_error: Of that value, over the evaluation set; 0 where it is not known.
    """

    num_examples: int
    value: float
    standard_error: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of a trial.

    Attributes:
        status: ``done``; ``stopped`` early as hopeless; ``diverged``, which is as good as not training; or ``failed``.
        value: Of the metric at the full budget: measured (``done``), foreseen (``stopped``), that of the untrained model
            (``diverged``), NaN (``failed``).
        standard_error: Of that value; 0 where it is not known.
        curve: Evaluations on the way.
        num_examples: Training examples that the trial took.
        seconds: Wall-clock seconds.
        note: Why it stopped or failed; empty otherwise.
    """

    status: str
    value: float
    standard_error: float = 0.0
    curve: tuple[Point, ...] = ()
    num_examples: int = 0
    seconds: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        check_choice("status", self.status, STATUSES)

    @classmethod
    def failure(cls, note: str, *, seconds: float = 0.0) -> "Outcome":
        """A trial without a value."""
        return cls(status="failed", value=math.nan, seconds=seconds, note=note)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What is to be made small or large.

    Attributes:
        name: In tables.
        direction: ``below`` where small is good, ``above`` where large is.
        scale: ``log`` for losses, which differ by factors; the bandit models the logarithm.
    """

    name: str = "value"
    direction: str = "below"
    scale: str = "linear"

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, ("above", "below"))
        check_choice("scale", self.scale, SCALES)

    def seen(self, value: float) -> float:
        """On the scale of the bandit; NaN stays so."""
        return math.log(max(value, SMALLEST)) if self.scale == "log" and not math.isnan(value) else value

    def seen_error(self, value: float, standard_error: float) -> float:
        """Standard error on the scale of the bandit, to first order."""
        return standard_error / max(value, SMALLEST) if self.scale == "log" else standard_error

    def raw(self, seen: float) -> float:
        """The other way of `seen`."""
        return math.exp(min(seen, 700.0)) if self.scale == "log" else seen

    def better(self, first: float, second: float) -> bool:
        """Whether ``first`` is better than ``second``; nothing is better than NaN's rival."""
        return first > second if self.direction == "above" else first < second

    def difference(self, seen: float) -> str:
        """How much better ``seen`` is, on the scale of the bandit, in words."""
        if self.scale == "linear" or not math.isfinite(seen):
            return f"{seen:.3g}"
        return f"a factor of {math.exp(min(seen, 700.0)):.3g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Incumbent:
    """The best finished trial of earlier rounds, which a trial must have a chance against.

    Attributes:
        value: Of the metric at the end.
        standard_error: Of that value.
    """

    value: float
    standard_error: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningTrial:
    """A trial with its place in the search.

    Attributes:
        id: Its number from 0, in the order of asking.
        round: Its round, from 0.
        values: Setting by name.
        seed: Of the trial.
        outcome: What it came to.
        copied_from: Trial whose outcome was taken, since running this one would have given the same; None for one that ran.
        attempts: How often it was begun; more than one where workers died.
    """

    id: int
    round: int
    values: Mapping[str, float | int | str]
    seed: int
    outcome: Outcome
    copied_from: int | None = None
    attempts: int = field(default=1)

    def to_record(self) -> dict[str, Any]:
        """The fields of a journal's line."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def best_of(trials: Sequence[TuningTrial], metric: Metric) -> TuningTrial | None:
    """The finished trial of the best value; among noisy trials mostly the luckiest, so nobody's recommendation."""
    found: TuningTrial | None = None
    for trial in trials:
        if trial.outcome.status == "done" and math.isfinite(trial.outcome.value):
            check_number("value", trial.outcome.value)
            if found is None or metric.better(trial.outcome.value, found.outcome.value):
                found = trial
    return found
