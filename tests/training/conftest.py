"""Small tasks for the training tests: seconds in all."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.tasks.task import OptimizerSpec, Target, Task


def make_task(**changes) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 6, generator=generator)
    labels = (inputs[:, 0] + inputs[:, 1] > 0).long()

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    settings = {
        "name": "toy",
        "model": model,
        "loss": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        "train": TensorDataset(inputs[:160], labels[:160]),
        "evaluation": TensorDataset(inputs[160:], labels[160:]),
        "optimizer": OptimizerSpec(lr=0.05),
        "target": Target(value=0.2, metric="loss"),
        "batch_size": 16,
        "metrics": {"accuracy": lambda model, batch: (model(batch[0]).argmax(1) == batch[1]).float()},
        "max_examples": 4000,
    }
    return Task(**{**settings, **changes})


@pytest.fixture
def task() -> Task:
    return make_task()
