"""Reading the results of the runs: one value a seed of each arm, and differences between arms of the same seed."""

import math
from collections.abc import Mapping
from typing import Any

from batchwright.studies.kalman_norm.presets import Table, num_parts, run_name

Results = Mapping[str, Mapping[str, Any]]


def seeds_of(results: Results, table: Table, arm: str) -> list[int]:
    """Seeds of which the whole run of an arm is there."""
    prefix = f"{table.name}/{arm}/seed-"
    seeds = {int(name[len(prefix) :].split("/")[0]) for name in results if name.startswith(prefix)}
    return sorted(seed for seed in seeds if _last(results, table, arm, seed) in results)


def value(results: Results, table: Table, arm: str, seed: int, name: str) -> float:
    """One number of a finished run; NaN where it has none."""
    found = results[_last(results, table, arm, seed)].get(name)
    return math.nan if found is None else float(found)


def values(results: Results, table: Table, arm: str, name: str) -> list[float]:
    """The number of each seed."""
    return [value(results, table, arm, seed, name) for seed in seeds_of(results, table, arm)]


def differences(
    results: Results, table: Table, first: str, second: str, name: str = "accuracy"
) -> tuple[list[int], list[float]]:
    """Seeds that both arms have, which begin with the same weights and see the same batches, and ``first`` less ``second`` in each."""
    shared = _shared(results, table, first, second)
    found = [value(results, table, first, seed, name) - value(results, table, second, seed, name) for seed in shared]
    return shared, found


def ratios(results: Results, table: Table, arm: str, top: str, bottom: str) -> tuple[list[int], list[float]]:
    """Seeds of an arm, and one of its numbers over another in each."""
    seeds = seeds_of(results, table, arm)
    return seeds, [value(results, table, arm, seed, top) / value(results, table, arm, seed, bottom) for seed in seeds]


def _shared(results: Results, table: Table, first: str, second: str) -> list[int]:
    return [seed for seed in seeds_of(results, table, first) if seed in seeds_of(results, table, second)]


def _last(results: Results, table: Table, arm: str, seed: int) -> str:
    name = run_name(table, arm, seed)
    return f"{name}/part-{num_parts(table) - 1:02d}" if table.part_epochs else name
