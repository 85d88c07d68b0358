"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from batchwright.studies.study import Cell
from batchwright.studies.train_longer.arms import ARMS, PUBLISHED_ARMS
from batchwright.studies.train_longer.fit import Sizes
from batchwright.studies.train_longer.identities import run_covariance, run_ghosts
from batchwright.studies.train_longer.table import run_entry
from batchwright.studies.train_longer.travel import run_travel
from batchwright.studies.train_longer.walks import run_walks


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table: a problem on which arms are compared.

    Attributes:
        name: In the names of cells.
        title: Of its rows.
        data: As of `run_entry`.
        network: As of `make_network`.
        num_train: Training examples.
        label_noise: Share of labels drawn anew.
        sizes: Batch sizes, learning rate, epochs.
        num_seeds: By preset.
        num_short_seeds: By preset, of the published arms that do not train longer, where those are more.
        arms: That are run.
    """

    name: str
    title: str
    data: str
    network: str
    num_train: int
    label_noise: float = 0.0
    sizes: Sizes
    num_seeds: Mapping[str, int]
    num_short_seeds: Mapping[str, int] = field(default_factory=dict)
    arms: tuple[str, ...] = tuple(ARMS)

    def seeds_of(self, preset: str, arm: str) -> int:
        """Seeds of an arm in a preset: a short run of few updates is cheap, and its differences are small."""
        short = arm in PUBLISHED_ARMS and not ARMS[arm].longer
        return max(self.num_seeds.get(preset, 0), self.num_short_seeds.get(preset, 0) if short else 0)

    def arms_of(self, preset: str) -> tuple[str, ...]:
        """The arms of a preset: the smoke preset leaves those out that are not published."""
        return tuple(arm for arm in self.arms if preset != "smoke" or arm in PUBLISHED_ARMS)


TABLES = {
    table.name: table
    for table in (
        Table(
            name="clean",
            title="Digits, clean labels",
            data="digits",
            network="digits-mlp",
            num_train=500,
            sizes=Sizes(small=16, large=250, lr=0.05, epochs=12, weight_decay=1e-4),
            num_seeds={"tiny": 1, "smoke": 2, "laptop": 12},
            num_short_seeds={"laptop": 40},
        ),
        Table(
            name="noisy",
            title="Digits, 20 % of the labels drawn anew",
            data="digits",
            network="digits-mlp",
            num_train=1280,
            label_noise=0.2,
            sizes=Sizes(small=32, large=640, lr=0.05, epochs=12, weight_decay=1e-4),
            num_seeds={"smoke": 1, "laptop": 8},
            num_short_seeds={"laptop": 40},
        ),
        Table(
            name="mnist-f1",
            title="MNIST (10,000 images), F1",
            data="mnist",
            network="f1",
            num_train=10_000,
            sizes=Sizes(small=128, large=4096, lr=0.1, epochs=10, weight_decay=1e-4),
            num_seeds={"middle": 3},
            arms=(*PUBLISHED_ARMS, "noise", "noise-gamma"),
        ),
        Table(
            name="cifar-resnet-8",
            title="CIFAR-10 (4,096 images), ResNet-8",
            data="cifar",
            network="resnet-8",
            num_train=4096,
            sizes=Sizes(small=32, large=512, lr=0.05, epochs=10, weight_decay=1e-4),
            num_seeds={"middle": 3},
            arms=PUBLISHED_ARMS,
        ),
        Table(
            name="cifar-resnet-44-b-2048",
            title="CIFAR-10, ResNet-44, large batch 2048",
            data="cifar",
            network="resnet-44",
            num_train=50_000,
            sizes=Sizes(small=128, large=2048, lr=0.1, epochs=200, weight_decay=1e-4),
            num_seeds={"paper": 3},
            arms=PUBLISHED_ARMS,
        ),
        Table(
            name="cifar-resnet-44-b-4096",
            title="CIFAR-10, ResNet-44, large batch 4096",
            data="cifar",
            network="resnet-44",
            num_train=50_000,
            sizes=Sizes(small=128, large=4096, lr=0.1, epochs=200, weight_decay=1e-4),
            num_seeds={"paper": 3},
            arms=PUBLISHED_ARMS,
        ),
    )
}


def table_cells(preset: str, seed: int) -> list[Cell]:
    """Entries of the tables, one seed of all of them after another, so that a study that is stopped has whole seeds."""
    found: list[Cell] = []
    most = max((table.seeds_of(preset, arm) for table in TABLES.values() for arm in table.arms), default=0)
    for index in range(most):
        for table in TABLES.values():
            for arm in table.arms_of(preset):
                if index < table.seeds_of(preset, arm):
                    found.append(_entry(table, arm, seed + index, order=len(found)))
    return found


def _entry(table: Table, arm: str, seed: int, order: int) -> Cell:
    return Cell(
        name=f"{table.name}/{arm}/seed-{seed}",
        run=run_entry,
        arguments={
            "data": table.data,
            "network": table.network,
            "num_train": table.num_train,
            "label_noise": table.label_noise,
            "arm": arm,
            "sizes": asdict(table.sizes),
            "seed": seed,
        },
        weight=1000.0 - order,
    )


# Batch size, whether the learning rate follows it, and the share of labels drawn anew.
TRAVELS = ((32, True, 0.0), (32, False, 0.0), (128, True, 0.0), (512, True, 0.0), (16, True, 0.5))
NUM_UPDATES = {"tiny": 200, "smoke": 600, "laptop": 1500}
TRAVEL_SEEDS = {"tiny": 1, "smoke": 1, "laptop": 3}
WALK_STEPS = {"tiny": 3000, "smoke": 30_000, "laptop": 300_000}
WALK_SEEDS = {"tiny": 1, "smoke": 1, "laptop": 3}
NUM_WALKERS = {"tiny": 100, "smoke": 400, "laptop": 2000}
NUM_DRAWS = {"tiny": 500, "smoke": 2000, "laptop": 8000}
COVARIANCE_SIZES = (8, 32, 256)


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset, in the order of the summary."""
    if preset not in NUM_DRAWS:
        return table_cells(preset, seed)
    found = [
        Cell(
            name="ghosts",
            run=run_ghosts,
            arguments={"num_ghosts": 8, "ghost_size": 16, "num_features": 24, "seed": seed},
        ),
        Cell(
            name="covariance",
            run=run_covariance,
            arguments={"batch_sizes": list(COVARIANCE_SIZES), "num_draws": NUM_DRAWS[preset], "seed": seed},
        ),
    ]
    found += table_cells(preset, seed)
    for run_seed in range(seed, seed + TRAVEL_SEEDS[preset]):
        found += [_travel(preset, *each, run_seed) for each in TRAVELS]
    found += [
        Cell(
            name=f"walks/seed-{run_seed}",
            run=run_walks,
            arguments={"num_walkers": NUM_WALKERS[preset], "num_steps": WALK_STEPS[preset], "seed": run_seed},
            weight=900.0,
        )
        for run_seed in range(seed, seed + WALK_SEEDS[preset])
    ]
    return found


def _travel(preset: str, batch_size: int, scaled: bool, label_noise: float, run_seed: int) -> Cell:
    return Cell(
        name=f"travel/{travel_name(batch_size, scaled, label_noise)}/seed-{run_seed}",
        run=run_travel,
        arguments={
            "batch_size": batch_size,
            "scaled": scaled,
            "label_noise": label_noise,
            "num_updates": NUM_UPDATES[preset],
            "seed": run_seed,
        },
        weight=10.0,
    )


def travel_name(batch_size: int, scaled: bool, label_noise: float) -> str:
    """Of a setting of the travels, in names of cells."""
    return f"b-{batch_size}" + ("" if scaled else "-lr-kept") + ("-noisy-labels" if label_noise else "")
