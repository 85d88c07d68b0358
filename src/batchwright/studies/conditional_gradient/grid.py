"""Which runs of the language model there are: batch sizes, step sizes, budgets and seeds, and the two schedules."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchwright.planning import TokenBudget, token_budget
from batchwright.studies.conditional_gradient.language import CONTEXT, measure_constants, run_language
from batchwright.studies.study import Cell

# Step sizes of every batch size and budget.
STEP_SIZES = (1e-4, 2e-4, 4e-4, 8e-4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The runs of one budget.

    Attributes:
        power: Of two, for the tokens.
        smallest: Smallest batch size in sequences, as a power of two.
        largest: Largest one.
        num_seeds: Seeds by preset.
        delay: How many seeds of the others come before its first.
        more: Step sizes beside `STEP_SIZES` by batch size, where the best of a first seed was at the edge of those.
    """

    power: int
    smallest: int
    largest: int
    num_seeds: Mapping[str, int]
    delay: float = 0.0
    more: tuple[tuple[int, tuple[float, ...]], ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of a run."""
        return int(2**self.power)

    def runs(self) -> list[tuple[int, float]]:
        """Batch sizes and step sizes."""
        more = dict(self.more)
        return [
            (2**each, lr)
            for each in range(self.smallest, self.largest + 1)
            for lr in sorted({*STEP_SIZES, *more.get(2**each, ())})
        ]


BUDGETS = (
    Budget(power=9, smallest=0, largest=2, num_seeds={"tiny": 1}),
    Budget(power=14, smallest=0, largest=5, num_seeds={"middle": 4}, more=((8, (5e-5,)),)),
    Budget(power=16, smallest=0, largest=6, num_seeds={"middle": 4}, more=((1, (5e-5,)), (32, (1.6e-3,)))),
    Budget(
        power=18,
        smallest=1,
        largest=7,
        num_seeds={"middle": 4},
        delay=1.5,
        more=((2, (5e-5,)), (4, (5e-5,)), (8, (5e-5,)), (32, (1.6e-3,)), (128, (1.6e-3,))),
    ),
    Budget(power=20, smallest=3, largest=8, num_seeds={"middle": 3}, delay=3.0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedules:
    """Three runs of equal tokens: the settings of the first budget, those of the second, and the first, then the second.

    Attributes:
        first: Tokens of the first budget.
        total: Tokens of the run.
        batch_size: Tuned for the first budget.
        lr: Tuned for the first budget.
        num_seeds: Of the three.
    """

    first: int
    total: int
    batch_size: int
    lr: float
    num_seeds: int


# Eight times the tokens: the rule gives four times the batch and half of the step size. Batch and step size of the first budget are
# the best of its grid; the seeds are others than those of the grid.
SCHEDULES = {
    "tiny": Schedules(first=2**6, total=2**9, batch_size=1, lr=4e-4, num_seeds=1),
    "middle": Schedules(first=2**14, total=2**17, batch_size=2, lr=2e-4, num_seeds=8),
}
FIRST_SCHEDULE_SEED = 100
# The run along which the constants of the bound are measured; batches smaller than this give a gradient norm that is all noise.
CONSTANTS = {
    "tiny": {"batch_size": 2, "lr": 2e-4, "num_steps": 30, "last": 20},
    "middle": {"batch_size": 16, "lr": 2e-4, "num_steps": 800, "last": 100},
}
ARMS = ("first", "second", "restarted")
# What a step costs beside its tokens, in tokens; for the order of the cells alone.
STEP_OVERHEAD = 512


def language_cells(preset: str, seed: int) -> list[Cell]:
    """The runs of a preset, one seed of all of them after another, so that a study that is stopped has whole seeds."""
    found: list[Cell] = []
    most = max((budget.num_seeds.get(preset, 0) for budget in BUDGETS), default=0)
    for index in range(most):
        for budget in BUDGETS:
            if index < budget.num_seeds.get(preset, 0):
                turn = index + budget.delay
                found += [_grid_cell(budget.tokens, *run, seed + index, preset, turn) for run in budget.runs()]
    schedules = SCHEDULES.get(preset)
    for index in range(schedules.num_seeds if schedules is not None else 0):
        assert schedules is not None
        run_seed = seed + FIRST_SCHEDULE_SEED + index
        found += [_schedule_cell(schedules, arm, run_seed, preset, index) for arm in ARMS]
    if preset in CONSTANTS:
        found.append(
            Cell(
                name="constants",
                run=measure_constants,
                arguments={**CONSTANTS[preset], "seed": seed},
                weight=_weight(1, 0, 1),
            )
        )
    return found


def _grid_cell(tokens: int, batch_size: int, lr: float, seed: int, preset: str, turn: float) -> Cell:
    return Cell(
        name=f"language/tokens-{tokens}/b-{batch_size}/lr-{lr:g}/seed-{seed}",
        run=run_language,
        arguments={"budgets": [tokens], "batch_size": batch_size, "lr": lr, "seed": seed, **_evaluation(preset)},
        weight=_weight(turn, tokens, batch_size),
    )


def _schedule_cell(schedules: Schedules, arm: str, seed: int, preset: str, turn: float) -> Cell:
    return Cell(
        name=f"schedule/{arm}/seed-{seed}",
        run=run_language,
        arguments={**arm_settings(schedules, arm), "seed": seed, **_evaluation(preset)},
        weight=_weight(1 + turn // 4 * 2, schedules.total, schedules.batch_size),
    )


def arm_settings(schedules: Schedules, arm: str) -> dict[str, Any]:
    """Budgets, batch size and step size of one of `ARMS`; those of the total are what the restarted schedule comes to."""
    if arm == "second":
        base = TokenBudget(batch_size=schedules.batch_size, sequence_length=1, lr=schedules.lr, tokens=schedules.first)
        total = token_budget(base=base, tokens=schedules.total, rounding="power-of-two")
        return {"budgets": [schedules.total], "batch_size": total.batch_size, "lr": total.lr}
    budgets = [schedules.first, schedules.total] if arm == "restarted" else [schedules.total]
    return {"budgets": budgets, "batch_size": schedules.batch_size, "lr": schedules.lr}


def _evaluation(preset: str) -> dict[str, int]:
    return {"num_evaluation": 64} if preset == "tiny" else {}


def _weight(turn: float, tokens: int, batch_size: int) -> float:
    """Earlier turns first, of a turn the longest first."""
    return 1e12 * math.pow(10, -turn) + tokens / (batch_size * CONTEXT) * (batch_size * CONTEXT + STEP_OVERHEAD)
