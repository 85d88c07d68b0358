"""Reading the results of the runs: their curves over all parts, and one value a seed at a step."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchwright.studies.mmd_gan.presets import RUNS, Run

Results = Mapping[str, Mapping[str, Any]]


def curve(results: Results, run: Run, seed: int) -> list[Mapping[str, Any]]:
    """The scores along a run, in order, as far as it has come without a gap."""
    name = run.name(seed)
    if not run.part_steps:
        return list(results[name]["curve"]) if name in results else []
    found: list[Mapping[str, Any]] = []
    for part in range(run.num_parts):
        piece = results.get(f"{name}/part-{part:02d}")
        if piece is None:
            break
        found += piece["curve"]
    return found


def last_piece(results: Results, run: Run, seed: int) -> Mapping[str, Any] | None:
    """The last finished part of a run, which holds its samples."""
    names = (
        [f"{run.name(seed)}/part-{part:02d}" for part in range(run.num_parts)] if run.part_steps else [run.name(seed)]
    )
    found = None
    for name in names:
        if name not in results:
            break
        found = results[name]
    return found


def seeds_of(results: Results, run: Run) -> list[int]:
    """Seeds of which anything is there."""
    prefix = run.name(0)[: -len("0")]
    return sorted({int(name[len(prefix) :].split("/")[0]) for name in results if name.startswith(prefix)})


def values(
    results: Results, preset: str, arm: str, batch_size: int, step: int, key: str, *, data: str = "digits"
) -> dict[int, Any]:
    """One number of each seed at a step, from whichever run of the arm came by there."""
    found: dict[int, Any] = {}
    for run in RUNS[preset]:
        if (run.arm, run.batch_size, run.data) == (arm, batch_size, data):
            for seed in seeds_of(results, run):
                for mark in curve(results, run, seed):
                    if mark["step"] == step:
                        found.setdefault(seed, mark[key])
    return dict(sorted(found.items()))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[list[int], list[float]]:
    """Seeds that both have, and first less second in each."""
    seeds: Sequence[int] = sorted(first.keys() & second.keys())
    return list(seeds), [first[seed] - second[seed] for seed in seeds]
