"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchwright.studies.kalman_norm.identities import run_identities
from batchwright.studies.kalman_norm.training import run_arm
from batchwright.studies.study import Cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Runs that differ by their norm and seed.

    Attributes:
        name: First word of its cells.
        title: In figures and groups of rows.
        arms: Norms.
        num_seeds: Seeds by preset; a preset that is not named leaves the table out.
        lr: Learning rate.
        num_epochs: Epochs.
        milestones: Epochs after which it falls to a tenth.
        data: ``digits`` or ``cifar``.
        num_blocks: Blocks in a stage.
        num_train: Training images.
        part_epochs: Epochs in a part; 0 for all in one.
        probed: Whether the statistics are measured in the last epoch.
    """

    name: str
    title: str
    arms: tuple[str, ...]
    num_seeds: dict[str, int]
    lr: float = 0.1
    num_epochs: int = 10
    milestones: tuple[int, ...] = (6,)
    data: str = "digits"
    num_blocks: int = 1
    num_train: int = 1280
    part_epochs: int = 0
    probed: bool = False


MAIN = ("batch", "ghost", "kalman", "kalman-raw", "kalman-code", "ghost-code", "group")
TABLES = {
    table.name: table
    for table in (
        Table(
            name="digits-lr-0.1",
            title="Digits, 10 epochs, lr 0.1",
            arms=MAIN,
            num_seeds={"tiny": 1, "smoke": 2, "laptop": 16},
        ),
        Table(
            name="digits-lr-0.03",
            title="Digits, 10 epochs, lr 0.03",
            arms=MAIN,
            num_seeds={"laptop": 16},
            lr=0.03,
        ),
        Table(
            name="digits-statistics",
            title="Digits, 12 epochs, lr 0.1, statistics of the last epoch",
            arms=(
                *("ghost", "kalman", "kalman-half", "kalman-sampled", "kalman-raw", "kalman-raw-half"),
                *("kalman-code", "kalman-large"),
            ),
            num_seeds={"tiny": 1, "smoke": 1, "laptop": 6},
            num_epochs=12,
            milestones=(7,),
            probed=True,
        ),
        Table(
            name="cifar-5k",
            title="CIFAR-10 (5,000 images), 8 layers, 20 epochs",
            arms=("ghost", "kalman", "kalman-raw", "batch"),
            num_seeds={"middle": 3},
            num_epochs=20,
            milestones=(12, 17),
            data="cifar",
            num_train=5000,
        ),
        # The published runs. Errors are read off a figure at 100,000 steps, which are 256 epochs.
        Table(
            name="cifar-32-layers",
            title="CIFAR-10, 32 layers, ghosts of 2",
            arms=("ghost-code", "group", "kalman-code", "ghost", "kalman", "kalman-raw", "batch"),
            num_seeds={"paper": 3},
            num_epochs=256,
            milestones=(82, 123),
            data="cifar",
            num_blocks=5,
            num_train=50_000,
            part_epochs=16,
        ),
        Table(
            name="cifar-110-layers",
            title="CIFAR-10, 110 layers, batch 128",
            arms=("batch", "kalman-large"),
            num_seeds={"paper": 3},
            num_epochs=256,
            milestones=(82, 123),
            data="cifar",
            num_blocks=18,
            num_train=50_000,
            part_epochs=16,
        ),
    )
}


def run_name(table: Table, arm: str, seed: int) -> str:
    """Name of a run, which its cells begin with."""
    return f"{table.name}/{arm}/seed-{seed}"


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset: whole seeds of all tables one after another, so that a study that is stopped has whole seeds."""
    found = (
        []
        if preset in ("middle", "paper")
        else [Cell(name="identities", run=run_identities, arguments={"seed": seed}, weight=1e6)]
    )
    most = max((table.num_seeds.get(preset, 0) for table in TABLES.values()), default=0)
    for index in range(most):
        for table in TABLES.values():
            if index < table.num_seeds.get(preset, 0):
                for arm in table.arms:
                    found += _run_cells(table, arm, seed + index, preset, weight=1e5 - len(found))
    return found


def num_parts(table: Table) -> int:
    """Parts of a run."""
    return -(-table.num_epochs // table.part_epochs) if table.part_epochs else 1


def _run_cells(table: Table, arm: str, seed: int, preset: str, weight: float) -> list[Cell]:
    name = run_name(table, arm, seed)
    tiny = preset == "tiny"
    shared = {
        "arm": arm,
        "data": table.data,
        "num_blocks": table.num_blocks,
        "num_train": 256 if tiny else table.num_train,
        "lr": table.lr,
        "num_epochs": 1 if tiny else table.num_epochs,
        "milestones": list(table.milestones),
        "seed": seed,
        "probed": table.probed,
    }
    if not table.part_epochs:
        return [Cell(name=name, run=run_arm, arguments=shared, weight=weight)]
    return [
        Cell(
            name=f"{name}/part-{part:02d}",
            run=run_arm,
            arguments={**shared, "part": part, "part_epochs": table.part_epochs},
            after=(f"{name}/part-{part - 1:02d}",) if part else (),
            weight=weight,
        )
        for part in range(num_parts(table))
    ]
