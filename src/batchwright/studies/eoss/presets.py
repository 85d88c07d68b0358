"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batchwright.measure.curvature.linear_model import edge_lr
from batchwright.studies.eoss.boundary import run_boundary
from batchwright.studies.eoss.catapult import run_checkpoint, run_continuations
from batchwright.studies.eoss.cifar import cifar_cells
from batchwright.studies.eoss.linear import DIM, simulate
from batchwright.studies.eoss.plateaus import OPTIMIZERS, run_plateau
from batchwright.studies.study import Cell

LR = 0.1
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.99)
# Columns of the published table of the linear model.
LINEAR_OPTIMIZERS = ((0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes of everything.

    Attributes:
        linear: Batch size, replicas and steps of each simulation of the linear model.
        num_train: Training images.
        steps: Training steps by batch size; the full data set has its number of images as its batch size.
        num_seeds: Seeds of the plateaus and of the catapult.
        num_points: Measurements along a run.
        num_batches: Batches of a measurement.
        checkpoint_steps: Steps before the interventions; 0 leaves the catapult out.
        spike_steps: Steps in which a spike is looked for.
        settle_steps: Steps after which batch sharpness has settled again.
        num_drawn: Interventions drawn at random.
    """

    linear: tuple[tuple[int, int, int], ...]
    num_train: int
    steps: dict[int, int] = field(default_factory=dict)
    num_seeds: int = 1
    num_points: int = 25
    num_batches: int = 100
    checkpoint_steps: int = 0
    spike_steps: int = 600
    settle_steps: int = 3600
    num_drawn: int = 12


LINEAR_SMOKE = ((1, 32, 1000), (16, 16, 1000), (64, 8, 1000), (256, 4, 600))
LINEAR_LAPTOP = ((1, 128, 3000), (16, 64, 2000), (64, 32, 1500), (256, 16, 800), (1024, 8, 600), (4096, 8, 200))

PRESETS = {
    # A test of the machinery in seconds; not offered on the command line.
    "tiny": Preset(
        linear=((1, 8, 200), (64, 4, 100)),
        num_train=64,
        steps={4: 120, 64: 120},
        num_points=4,
        num_batches=10,
        checkpoint_steps=150,
        spike_steps=20,
        settle_steps=40,
        num_drawn=2,
    ),
    # The digits at full size and a fraction of the steps: what is reached early is judged, the rest is not there yet.
    "smoke": Preset(
        linear=LINEAR_SMOKE,
        num_train=512,
        steps={4: 2000, 512: 2000},
        num_points=10,
        num_batches=30,
        checkpoint_steps=2000,
        spike_steps=200,
        settle_steps=600,
        num_drawn=4,
    ),
    "laptop": Preset(
        linear=LINEAR_LAPTOP,
        num_train=512,
        steps={4: 12000, 16: 6000, 64: 6000, 256: 6000, 512: 6000},
        num_seeds=3,
        checkpoint_steps=10000,
    ),
}


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset, in the order of the summary."""
    if preset == "paper":
        return cifar_cells(seed)
    size = PRESETS[preset]
    found = [
        Cell(
            name=f"boundary/{'nesterov' if nesterov else 'heavy-ball'}",
            run=run_boundary,
            arguments={"momenta": MOMENTA, "nesterov": nesterov},
        )
        for nesterov in (False, True)
    ]
    found += [_linear_cell(batch_size, replicas, steps, seed) for batch_size, replicas, steps in size.linear]
    for run_seed in range(seed, seed + size.num_seeds):
        found += [_plateau_cell(size, batch_size, steps, run_seed) for batch_size, steps in size.steps.items()]
        found += _catapult_cells(size, seed, run_seed) if size.checkpoint_steps else []
    return found


def linear_edges(batch_size: int) -> list[float]:
    """Predicted largest learning rate of each column: one isotropic curvature of variance ``(D-1)/b`` about one."""
    return [
        edge_lr(dim=DIM, batch_size=batch_size, momentum=momentum, nesterov=nesterov)
        for momentum, nesterov in LINEAR_OPTIMIZERS
    ]


def _linear_cell(batch_size: int, replicas: int, steps: int, seed: int) -> Cell:
    return Cell(
        name=f"linear/b-{batch_size}",
        run=simulate,
        arguments={
            "batch_size": batch_size,
            "edges": linear_edges(batch_size),
            "momenta": [momentum for momentum, _ in LINEAR_OPTIMIZERS],
            "nesterov": [nesterov for _, nesterov in LINEAR_OPTIMIZERS],
            "num_replicas": replicas,
            "num_steps": steps,
            "seed": seed,
        },
        weight=5.0,
    )


def _plateau_cell(size: Preset, batch_size: int, steps: int, run_seed: int) -> Cell:
    arguments: dict[str, Any] = {
        "lr": LR,
        "optimizers": OPTIMIZERS,
        "batch_size": batch_size,
        "num_steps": steps,
        "num_points": size.num_points,
        "num_batches": size.num_batches,
        "seed": run_seed,
        "num_train": size.num_train,
    }
    name = f"plateau/b-{batch_size}/seed-{run_seed}"
    return Cell(name=name, run=run_plateau, arguments=arguments, weight=20.0 + 0.1 * batch_size)


def _catapult_cells(size: Preset, seed: int, run_seed: int) -> list[Cell]:
    shared = {"num_batches": size.num_batches, "seed": run_seed, "num_train": size.num_train}
    first = f"catapult/checkpoint/seed-{run_seed}"
    return [
        Cell(
            name=first,
            run=run_checkpoint,
            arguments={"num_steps": size.checkpoint_steps, **shared},
            weight=100.0,  # begins first, since another waits for it
        ),
        Cell(
            name=f"catapult/continuations/seed-{run_seed}",
            run=run_continuations,
            arguments={
                "num_spike_steps": size.spike_steps,
                "num_steps": size.settle_steps,
                "num_drawn": size.num_drawn,
                "draw_seed": seed,
                **shared,
            },
            after=(first,),
            weight=90.0,
        ),
    ]
