"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batchwright.studies.conditional_gradient import landscape, rule, toy
from batchwright.studies.conditional_gradient.grid import language_cells
from batchwright.studies.conditional_gradient.nanogpt_grid import nanogpt_cells
from batchwright.studies.study import Cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes of everything.

    Attributes:
        exponents: Budgets of the bound, as powers of ten.
        points: Points of its grids.
        per_decade: Batch sizes of the bound in a decade.
        toy_powers: Budgets of the simulation, as powers of two.
        toy_repeats: Independent runs of it.
        toy_smallest: Smallest batch size of it, as a power of two.
    """

    exponents: tuple[int, ...] = (4, 6, 8, 10, 12, 14)
    points: Mapping[str, int] = field(default_factory=lambda: {"c": 24, "eta": 48, "alpha": 61})
    per_decade: int = 4
    toy_powers: tuple[int, ...] = (12, 14, 16, 18)
    toy_repeats: int = 48
    toy_smallest: int = 5


PRESETS = {
    # A test of the machinery in seconds; not offered on the command line.
    "tiny": Preset(
        exponents=(8, 10),
        points={"c": 8, "eta": 12, "alpha": 13},
        per_decade=1,
        toy_powers=(12,),
        toy_repeats=3,
        toy_smallest=7,
    ),
    "smoke": Preset(points={"c": 12, "eta": 24, "alpha": 31}, per_decade=3, toy_powers=(12, 14), toy_repeats=12),
    "laptop": Preset(),
    "paper": Preset(per_decade=8, toy_powers=(12, 14, 16, 18, 20), toy_repeats=96),
}


def toy_batches(size: Preset, power: int) -> list[int]:
    """Powers of two up to eight steps in a run; with fewer, one of the few steps may end at the optimum by chance."""
    return [2**each for each in range(size.toy_smallest, power - 2)]


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset."""
    if preset not in PRESETS:
        return language_cells(preset, seed)
    size = PRESETS[preset]
    return [
        Cell(name="rule", run=rule.transfers),
        Cell(name="table", run=rule.published_table),
        Cell(
            name="bound",
            run=landscape.landscape,
            arguments={"exponents": size.exponents, "points": dict(size.points), "per_decade": size.per_decade},
            weight=100.0,
        ),
        *(
            Cell(
                name=f"toy/tokens-2^{power}",
                run=toy.sweep,
                arguments={
                    "tokens": 2**power,
                    "batch_sizes": toy_batches(size, power),
                    "num_repeats": size.toy_repeats,
                    "seed": seed,
                },
                weight=2.0 ** (power - 10),
            )
            for power in size.toy_powers
        ),
        *language_cells(preset, seed),
        *(nanogpt_cells(seed) if preset == "paper" else []),
    ]
