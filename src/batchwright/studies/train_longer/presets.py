"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from batchwright.studies.study import Cell
from batchwright.studies.train_longer.arms import ARMS, PUBLISHED_ARMS
from batchwright.studies.train_longer.fit import Sizes
from batchwright.studies.train_longer.table import run_entry


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
    arms: tuple[str, ...] = tuple(ARMS)


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
            num_seeds={"tiny": 2, "smoke": 2, "laptop": 20},
        ),
        Table(
            name="noisy",
            title="Digits, 20 % of the labels drawn anew",
            data="digits",
            network="digits-mlp",
            num_train=1280,
            label_noise=0.2,
            sizes=Sizes(small=32, large=640, lr=0.05, epochs=12, weight_decay=1e-4),
            num_seeds={"smoke": 1, "laptop": 12},
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
    found = []
    most = max((table.num_seeds.get(preset, 0) for table in TABLES.values()), default=0)
    for index in range(most):
        for table in TABLES.values():
            if index < table.num_seeds.get(preset, 0):
                found += [_entry(table, arm, seed + index, order=len(found)) for arm in table.arms]
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


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset, in the order of the summary."""
    return table_cells(preset, seed)
