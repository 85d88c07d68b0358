"""What the race says: the value each first run ended at, and when each other run first passed their mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from batchwright.studies.critical_batch.presets import RACE
from batchwright.studies.critical_batch.results import Results
from batchwright.studies.critical_batch.runs import tried_of
from batchwright.studies.critical_batch.search import at_edge, best_of
from batchwright.studies.critical_batch.trial import crossing_of
from batchwright.tasks.task import Target

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RaceResult:
    """One optimizer in the race.

    Attributes:
        name: Of the optimizer.
        lr: Its learning rate; None before there is one.
        lr_words: Out of how many, and whether it is at an end of them.
        curves: Step and value at each evaluation, by seed.
        ends: Last value, by seed.
        steps: Steps at the first passage of the mean last value of the first optimizer, by seed; infinite where there is none.
        num_steps: Of the longest run.
        planned: Number of its runs.
    """

    name: str
    lr: float | None
    lr_words: str
    curves: Mapping[int, Curve]
    ends: Mapping[int, float]
    steps: Mapping[int, float]
    num_steps: int
    planned: int


def race_results(results: Results, optimizers: Sequence[str], target: Target, planned: int) -> list[RaceResult]:
    """The results of the race, the reference first; empty where it was not run."""
    found: list[RaceResult] = []
    goal = None
    for optimizer in optimizers:
        own = {name: each for name, each in results.items() if name.startswith(f"{optimizer}/{RACE}/")}
        if not own:
            continue
        runs = {name: each for name, each in own.items() if not each.get("skipped")}
        tried = tried_of([each for name, each in runs.items() if "/search-" in name])
        best = best_of(tried)
        repeats = {int(each["arguments"]["seed"]): each for name, each in runs.items() if "/seed-" in name}
        curves = {seed: tuple((int(x), float(y)) for x, y in each["curve"]) for seed, each in repeats.items()}
        ends = {seed: float(each["last"]) for seed, each in repeats.items() if each["last"] is not None}
        if goal is None and ends:
            goal = replace(target, value=sum(ends.values()) / len(ends))
        steps = {}
        for seed, curve in curves.items():
            passage = crossing_of(curve, goal) if goal is not None else None
            steps[seed] = math.inf if passage is None else passage
        edge = ", at the edge" if at_edge(tried) else ""
        found.append(
            RaceResult(
                name=optimizer,
                lr=best.lr if best is not None else None,
                lr_words=f"of {len(tried)} tried for {_length(runs)} steps{edge}",
                curves=curves,
                ends=ends,
                steps=steps,
                num_steps=max((int(each["arguments"]["num_steps"]) for each in repeats.values()), default=0),
                planned=planned,
            )
        )
    return found


def _length(runs: Results) -> int:
    return next((int(each["arguments"]["num_steps"]) for name, each in runs.items() if "/search-" in name), 0)
