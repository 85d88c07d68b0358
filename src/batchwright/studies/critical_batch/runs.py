"""The cells: a run of a search for a learning rate, and a repeat at the learning rate found.

Each leaves a file for itself in the study's state, which the cells after it read: so a search, whose next learning rate follows from
its last run, can be killed and resumed between any two runs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from batchwright.core.records import read_json, write_json
from batchwright.studies.critical_batch.search import LOST, Score, Tried, best_of, next_lr
from batchwright.studies.critical_batch.specs import spec_of
from batchwright.studies.critical_batch.trial import LATER, Outcome, evaluation_steps, judged_by, run_trial
from batchwright.studies.study import Place
from batchwright.tasks.loading import load_task
from batchwright.tasks.task import Target

# A run is given up after so many times the steps that are expected; what is expected is stated at each use.
PATIENCE = 3.0
# Before the first evaluation: this part of the steps expected.
SEARCH_FROM, REPEAT_FROM = 0.2, 0.5
# Where nothing is known, this part of the task's limit is expected.
UNKNOWN = 40.0
SEARCH_RATIO, REPEAT_RATIO = 1.12, 1.06


def file_of(folder: Path, name: str) -> Path:
    """Where a cell leaves what the cells after it need."""
    return folder / f"{name.replace('/', '-')}.json"


def read_cells(folder: Path, names: Sequence[str]) -> list[Mapping[str, Any]]:
    """What the cells of these names left, without those that had nothing to do."""
    found = [read_json(file_of(folder, name)) for name in names]
    return [each for each in found if not each.get("skipped")]


def tried_of(found: Sequence[Mapping[str, Any]]) -> list[Tried]:
    """Learning rates and scores out of the files of a search."""
    return [Tried(lr=each["lr"], score=(int(each["score"][0]), float(each["score"][1]))) for each in found]


def search(
    place: Place,
    *,
    name: str,
    task: str,
    optimizer: str,
    batch_size: int,
    seed: int,
    target: Mapping[str, Any],
    judges: int,
    earlier: Sequence[str],
    neighbour: Sequence[str] = (),
    neighbour_size: int = 0,
    reference: Sequence[str] = (),
    reference_factor: float = math.inf,
    strides: Sequence[float] = (1.0,),
    num_steps: int = 0,
) -> dict[str, Any]:
    """The next run of a search for the learning rate at one batch size; nothing if the search is at its end.

    Args:
        place: Where it runs.
        name: Of the cell.
        task: As on the command line.
        optimizer: By name.
        batch_size: Examples in a step.
        seed: Of the search, apart from those of the repeats.
        target: Fields of a `Target`; a search for a number of steps has none to reach, and uses its metric alone.
        judges: Most examples of an evaluation.
        earlier: Cells of this search, in order.
        neighbour: Cells of the search at the batch size beside this one, where this one begins.
        neighbour_size: That batch size.
        reference: Cells of the first optimizer's search at the same batch size; a run of this one is given up after
            ``reference_factor`` times its steps.
        reference_factor: As above.
        strides: As in `next_lr`.
        num_steps: For a search whose score is the value after so many steps; 0 for one whose score is the steps to the target.
    """
    loaded = judged_by(load_task(task, data_root=place.data_root), judges)
    goal = Target(**target)
    spec = spec_of(optimizer, loaded)
    before = tried_of(read_cells(place.folder, earlier))
    start, limit, hopeless = spec.lr, float(max(1, loaded.example_limit // batch_size)), False
    expected = limit / UNKNOWN
    if neighbour:
        found = best_of(tried_of(read_cells(place.folder, neighbour)))
        hopeless = found is None or found.score[0] > 0
        if found is not None:
            # Half way, in the logarithm, between a learning rate that stays and one that follows the batch size.
            start = found.lr * (batch_size / neighbour_size) ** 0.5
            # No batch size needs more steps than a smaller one, nor more examples than a larger one.
            expected = found.score[1] * max(1.0, neighbour_size / batch_size)
            limit = min(limit, PATIENCE * expected)
    if reference:
        found = best_of(tried_of(read_cells(place.folder, reference)))
        if found is not None and found.score[0] == 0:
            expected = found.score[1]
            limit = min(limit, reference_factor * expected)
    lr = None if hopeless else next_lr(before, start, strides=strides, upward=batch_size >= neighbour_size)
    if lr is None:
        return _left(place, name, {"skipped": True})
    best = best_of(before)
    if num_steps:
        steps = evaluation_steps(num_steps, num_steps)
    else:
        # What is not there when the best one was is worse, and how much worse does not matter.
        if best is not None and best.score[0] == 0:
            expected = best.score[1]
            limit = LATER * expected
        steps = evaluation_steps(math.ceil(SEARCH_FROM * expected), math.ceil(limit), ratio=SEARCH_RATIO)
    outcome = run_trial(
        loaded,
        replace(spec, lr=lr),
        batch_size=batch_size,
        seed=seed,
        device=place.device,
        steps=steps,
        target=goal,
        stop_at_target=not num_steps,
    )
    score = value_score(outcome, goal) if num_steps else steps_score(outcome, goal)
    return _left(place, name, {"lr": lr, "score": score, **_plain(outcome, batch_size)})


def repeat(
    place: Place,
    *,
    name: str,
    task: str,
    optimizer: str,
    batch_size: int,
    seed: int,
    target: Mapping[str, Any],
    judges: int,
    found_by: Sequence[str],
) -> dict[str, Any]:
    """A run to the target at the learning rate that the search of ``found_by`` found; nothing if it never got there."""
    best = best_of(tried_of(read_cells(place.folder, found_by)))
    if best is None or best.score[0] > 0:
        return _left(place, name, {"skipped": True})
    loaded = judged_by(load_task(task, data_root=place.data_root), judges)
    expected = best.score[1]
    last = min(math.ceil(PATIENCE * expected), max(1, loaded.example_limit // batch_size))
    outcome = run_trial(
        loaded,
        replace(spec_of(optimizer, loaded), lr=best.lr),
        batch_size=batch_size,
        seed=seed,
        device=place.device,
        steps=evaluation_steps(math.floor(REPEAT_FROM * expected), last, ratio=REPEAT_RATIO),
        target=Target(**target),
    )
    return _left(place, name, {"lr": best.lr, **_plain(outcome, batch_size)})


def race(
    place: Place,
    *,
    name: str,
    task: str,
    optimizer: str,
    batch_size: int,
    seed: int,
    target: Mapping[str, Any],
    judges: int,
    found_by: Sequence[str],
    num_steps: int,
    every: int,
    references: Sequence[str] = (),
) -> dict[str, Any]:
    """A run of ``num_steps`` at the learning rate found; with ``references`` it ends where it reaches their mean value at their end."""
    best = best_of(tried_of(read_cells(place.folder, found_by)))
    if best is None or best.score == LOST:
        return _left(place, name, {"skipped": True})
    loaded = judged_by(load_task(task, data_root=place.data_root), judges)
    goal = Target(**target)
    ends = [each["last"] for each in read_cells(place.folder, references)]
    if ends:
        goal = replace(goal, value=sum(ends) / len(ends))
    outcome = run_trial(
        loaded,
        replace(spec_of(optimizer, loaded), lr=best.lr),
        batch_size=batch_size,
        seed=seed,
        device=place.device,
        steps=evaluation_steps(every, num_steps, gap=every),
        target=goal,
        stop_at_target=bool(ends),
    )
    return _left(place, name, {"lr": best.lr, **_plain(outcome, batch_size)})


def steps_score(outcome: Outcome, target: Target) -> Score:
    """Steps to the target; how far it was where it was not reached."""
    if outcome.steps is not None:
        return 0, outcome.steps
    return LOST if outcome.lost else (1, _distance(outcome.last, target))


def value_score(outcome: Outcome, target: Target) -> Score:
    """The value at the end."""
    return LOST if outcome.lost else (0, _distance(outcome.last, target))


def _distance(value: float, target: Target) -> float:
    return target.value - value if target.direction == "above" else value - target.value


def _plain(outcome: Outcome, batch_size: int) -> dict[str, Any]:
    # A loss that is not a number has no place in JSON; `lost` tells it.
    last = outcome.last if math.isfinite(outcome.last) else None
    curve = [point for point in outcome.curve if math.isfinite(point[1])]
    return {**asdict(outcome), "curve": curve, "last": last, "num_gradients": float(outcome.num_steps * batch_size)}


def _left(place: Place, name: str, found: dict[str, Any]) -> dict[str, Any]:
    write_json(file_of(place.folder, name), found)
    return found
