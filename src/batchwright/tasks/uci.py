"""Perceptrons on tables of the UCI Machine Learning Repository: six regressions, and income as a classification."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from batchwright.core.batches import Batch
from batchwright.core.checks import check_choice
from batchwright.data.readers import read_adult, read_table, resolve_data_root
from batchwright.tasks.classification import accuracy, cross_entropy
from batchwright.tasks.task import OptimizerSpec, Target, Task

SPLIT_SEED = 0
WIDTH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table and how it is trained.

    Attributes:
        files: Where it is under the data root; several are joined, with a column that tells them apart.
        lr: Learning rate of SGD with momentum 0.9 at batch size 32.
        target: Evaluation loss: squared error over the variance of the target, or cross-entropy in nats.
        epochs: Epochs after which a run gives up.
    """

    files: tuple[str, ...]
    lr: float
    target: float
    epochs: int = 50


# Learning rates: of 0.003, 0.01 and 0.03 on one seed, 0.01 was within a fifth of the fewest steps to the target on every
# large table, and on the small ones it still left room above it for a larger batch.
TABLES: Mapping[str, Table] = {
    "adult": Table(files=("uci/adult/adult.data.gz", "uci/adult/adult.test.gz"), lr=0.01, target=0.325),
    "concrete": Table(files=("uci/concrete/data.txt",), lr=0.01, target=0.12, epochs=200),
    "energy": Table(files=("uci/energy/data.txt",), lr=0.01, target=0.05, epochs=200),
    "power-plant": Table(files=("uci/power-plant/data.txt",), lr=0.01, target=0.063),
    "protein": Table(files=("uci/protein/data.txt.gz",), lr=0.01, target=0.6),
    "wine-quality": Table(
        files=("uci/wine-quality/winequality-red.csv", "uci/wine-quality/winequality-white.csv"), lr=0.01, target=0.64
    ),
    "yacht": Table(files=("uci/yacht/data.txt",), lr=0.01, target=0.03, epochs=500),
}


def uci_mlp(data_root: Path | None = None, *, table: str = "power-plant") -> Task:
    """A perceptron with two hidden layers of 64 on one of the tables.

    Inputs and the target of a regression are standardised with the statistics of the training part. ``adult`` keeps its own
    test part; of the other tables a fixed tenth is held out. ``wine-quality`` is red and white wine with a column for the
    colour, its score taken as a number.

    Args:
        data_root: Folder of the data sets.
        table: A key of `TABLES`.

    Raises:
        InputError: If the table is not known.
        DataError: If its file is not under the data root.
    """
    check_choice("table", table, TABLES)
    chosen = TABLES[table]
    files = [resolve_data_root(data_root) / name for name in chosen.files]
    if table == "adult":
        train, evaluation = _adult(*files)
    else:
        train, evaluation = _regression(files)
    num_inputs = train.tensors[0].shape[1]
    num_outputs = 2 if table == "adult" else 1
    return Task(
        name=f"uci-mlp:{table}",
        model=lambda: perceptron(num_inputs, num_outputs),
        loss=cross_entropy if table == "adult" else squared_error,
        train=train,
        evaluation=evaluation,
        optimizer=OptimizerSpec(name="sgd", lr=chosen.lr, momentum=0.9),
        target=Target(value=chosen.target),
        metrics={"accuracy": accuracy} if table == "adult" else {},
        max_examples=chosen.epochs * len(train),
        description=f"UCI {table}, {'classification' if table == 'adult' else 'regression'} with a three-layer perceptron",
    )


def perceptron(num_inputs: int, num_outputs: int) -> nn.Module:
    """Two hidden layers of 64 with ReLU."""
    return nn.Sequential(
        nn.Linear(num_inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, num_outputs)
    )


def squared_error(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """Squared error of each example, in units of the target's variance over the training part."""
    inputs, targets = batch
    errors: Tensor = model(inputs).squeeze(1) - targets
    return errors.square()


def _adult(train_path: Path, test_path: Path) -> tuple[TensorDataset, TensorDataset]:
    table = read_adult(train_path, test_path)
    train, evaluation = _standardised(table.train_inputs, table.test_inputs)
    return (
        TensorDataset(train, torch.from_numpy(table.train_labels)),
        TensorDataset(evaluation, torch.from_numpy(table.test_labels)),
    )


def _regression(files: list[Path]) -> tuple[TensorDataset, TensorDataset]:
    parts = [read_table(path) for path in files]
    if len(parts) > 1:
        parts = [np.insert(part, 0, position, axis=1) for position, part in enumerate(parts)]
    table = np.concatenate(parts)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    num_held_out = len(table) // 10
    train, evaluation = _standardised(table[order[num_held_out:]], table[order[:num_held_out]])
    return TensorDataset(train[:, :-1], train[:, -1]), TensorDataset(evaluation[:, :-1], evaluation[:, -1])


def _standardised(
    train: Float[np.ndarray, "N D"], evaluation: Float[np.ndarray, "M D"]
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]]:
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std == 0] = 1.0  # a column that never varies in training becomes zeros
    scaled = ((part - mean) / std for part in (train, evaluation))
    first, second = (torch.from_numpy(part).float().contiguous() for part in scaled)
    return first, second
