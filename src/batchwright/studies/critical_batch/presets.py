"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batchwright.core.errors import InputError
from batchwright.studies.critical_batch import runs
from batchwright.studies.study import Cell
from batchwright.tasks.task import Task

# Most runs of a search: at the task's own batch size it may begin far off for another optimizer than its own; at the next it begins
# where that one ended. A stride more costs two.
FAR, NEAR, STRIDE = 9, 5, 2
# The seed of a search is this one after those of the repeats.
APART = 1000
REFERENCE_FACTOR = 4.0
RACE = "race"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes of everything.

    Attributes:
        factors: Batch sizes over the task's own; 1 is among them.
        num_seeds: Repeats at each batch size.
        strides: Of the search for a learning rate, as of `next_lr`; a search from afar goes by factors of 4 before them.
        judges: Most examples of an evaluation.
        race_steps: Steps of the first optimizer whose value the others race to; 0 for no race.
        race_search: Steps of the runs that choose the learning rate of the race.
        race_every: Steps between two evaluations of the race.
    """

    factors: tuple[float, ...] = (1.0,)
    num_seeds: int = 3
    strides: tuple[float, ...] = (1.0, 0.5)
    judges: int = 256
    race_steps: int = 0
    race_search: int = 0
    race_every: int = 50


PRESETS = {
    "smoke": Preset(factors=(0.25, 1.0, 4.0), strides=(1.0,), judges=128),
    # On the noisy quadratic factors of 2 in the learning rate give 228 for a critical size of 361, factors of its root 355.
    "laptop": Preset(factors=(0.25, 1.0, 4.0, 16.0)),
    "paper": Preset(factors=(0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), num_seeds=5, judges=2048),
    RACE: Preset(race_steps=2000, race_search=400),
}


def sizes_of(preset: Preset, task: Task) -> tuple[int, ...]:
    """Batch sizes of a preset on a task, rising.

    Raises:
        InputError: If fewer than three are left, which do not tell a fit from its scatter.
    """
    wanted = {max(1, round(factor * task.batch_size)) for factor in preset.factors}
    sizes = tuple(sorted(size for size in wanted if size <= task.num_train))
    if not preset.race_steps and len(sizes) < 3:
        raise InputError(
            f"--task must have examples for 3 batch sizes, got {', '.join(map(str, sizes))} of {sorted(wanted)} with "
            f"{task.num_train} training examples; lower its batch_size"
        )
    return sizes


def search_names(optimizer: str, place: str, count: int) -> tuple[str, ...]:
    """Names of the cells of one search."""
    return tuple(f"{optimizer}/{place}/search-{number}" for number in range(count))


def cells_of(preset: Preset, seed: int, *, optimizers: Sequence[str], task_name: str, task: Task) -> list[Cell]:
    """The cells, of every optimizer the same; the first optimizer is the reference of the others."""
    assert task.target is not None  # seen to by the study
    common: dict[str, Any] = {"task": task_name, "target": asdict(task.target), "judges": preset.judges}
    if preset.race_steps:
        return _race(preset, seed, optimizers, task, common)
    sizes, base = sizes_of(preset, task), task.batch_size
    # Outward from the task's own size, so that each search begins where the one beside it ended; all optimizers at one size before the
    # next, so that a study that is stopped compares them.
    return [
        cell
        for size in sorted(sizes, key=lambda each: (max(each / base, base / each), each))
        for optimizer in optimizers
        for cell in _at_size(preset, seed, optimizer, optimizers[0], size, sizes, task, common)
    ]


def _at_size(
    preset: Preset,
    seed: int,
    optimizer: str,
    reference: str,
    size: int,
    sizes: Sequence[int],
    task: Task,
    common: dict[str, Any],
) -> list[Cell]:
    base, own = task.batch_size, task.optimizer.name

    def names_at(place: int, name: str = optimizer) -> tuple[str, ...]:
        count = (FAR if place == base and name != own else NEAR) + STRIDE * (len(preset.strides) - 1)
        return search_names(name, f"batch-{place}", count)

    names, after = names_at(size), tuple[str, ...]()
    arguments = {**common, "optimizer": optimizer, "batch_size": size}
    far = size == base and optimizer != own
    extra: dict[str, Any] = {"strides": (2.0, *preset.strides) if far else preset.strides}
    if size != base:
        inner = (
            max(each for each in sizes if each < size) if size > base else min(each for each in sizes if each > size)
        )
        after = names_at(inner)
        extra |= {"neighbour": after, "neighbour_size": inner}
    elif optimizer != reference:
        after = names_at(size, reference)
        extra |= {"reference": after, "reference_factor": REFERENCE_FACTOR}
    return [
        *_search(names, {**arguments, **extra, "seed": seed + APART}, after),
        *(
            Cell(
                name=f"{optimizer}/batch-{size}/seed-{number}",
                run=runs.repeat,
                arguments={
                    **arguments,
                    "name": f"{optimizer}/batch-{size}/seed-{number}",
                    "seed": seed + number,
                    "found_by": names,
                },
                after=names,
            )
            for number in range(preset.num_seeds)
        ),
    ]


def _race(preset: Preset, seed: int, optimizers: Sequence[str], task: Task, common: dict[str, Any]) -> list[Cell]:
    found: list[Cell] = []
    references: tuple[str, ...] = ()
    for optimizer in optimizers:
        near = optimizer == task.optimizer.name
        names = search_names(optimizer, RACE, NEAR if near else FAR)
        arguments = {**common, "optimizer": optimizer, "batch_size": task.batch_size}
        extra = {"num_steps": preset.race_search, "strides": (1.0,) if near else (2.0, 1.0), "seed": seed + APART}
        found += _search(names, {**arguments, **extra}, ())
        repeats = tuple(f"{optimizer}/{RACE}/seed-{number}" for number in range(preset.num_seeds))
        found += [
            Cell(
                name=name,
                run=runs.race,
                arguments={
                    **arguments,
                    "name": name,
                    "seed": seed + number,
                    "found_by": names,
                    "num_steps": preset.race_steps,
                    "every": preset.race_every,
                    "references": references,
                },
                after=(*names, *references),
            )
            for number, name in enumerate(repeats)
        ]
        references = references or repeats
    return found


def _search(names: Sequence[str], arguments: dict[str, Any], after: tuple[str, ...]) -> list[Cell]:
    return [
        Cell(
            name=name,
            run=runs.search,
            arguments={**arguments, "name": name, "earlier": tuple(names[:number])},
            after=(*after, *names[:number]),
        )
        for number, name in enumerate(names)
    ]
