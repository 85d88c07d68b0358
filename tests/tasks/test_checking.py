"""The first look at a task: what it refuses, and that it leaves nothing changed."""

import random
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.core.errors import TaskError
from batchwright.tasks import Task, check_task


def loss(model, batch):
    return model(batch[0]).squeeze(1).square()


def make(**changes) -> Task:
    data = TensorDataset(torch.ones(8, 3))
    settings = {"name": "mine", "model": lambda: nn.Linear(3, 1), "loss": loss, "train": data, "batch_size": 4}
    return Task(**{**settings, **changes})


def test_a_good_task_passes_also_with_one_example_and_a_random_model():
    assert check_task(make()) is None
    assert check_task(make(train=TensorDataset(torch.ones(1, 3)), batch_size=1)) is None
    assert check_task(make(model=lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1)))) is None


def test_random_generators_come_back_also_after_a_failure():
    def draws(model, batch):
        torch.rand(1), np.random.rand(), random.random()
        return loss(model, batch)

    for task in (make(loss=draws), make(loss=lambda model, batch: draws(model, batch).mean())):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        expected = torch.rand(1), np.random.rand(), random.random()
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        with suppress(TaskError):
            check_task(task)
        assert (torch.rand(1), np.random.rand(), random.random()) == expected


def fails_in_model():
    raise KeyError("width")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": lambda m, b: loss(m, b).mean()},
            r"one floating-point loss an example, shape \(2,\), got shape \(\) of float32",
        ),
        ({"loss": lambda m, b: m(b[0])}, r"shape \(2,\), got shape \(2, 1\) of float32"),
        ({"loss": lambda m, b: loss(m, b).mean().item()}, r"loss must return a tensor of shape \(2,\), .* got float"),
        (
            {"loss": lambda m, b: loss(m, b).detach()},
            "loss must depend on the model's parameters, got one without a gradient",
        ),
        ({"loss": lambda m, b: loss(m, b) / 0}, r"loss must be finite on a fresh model, got \[inf, inf\]"),
        (
            {"loss": lambda m, b: m(b[0][:, :2])},
            r"loss must work on a batch of 2 training examples, got RuntimeError: mat1 and mat2 .* \(line \d+ of test_checking.py\)$",
        ),
        (
            {"loss": lambda m: 0},
            r"loss must work on a batch of 2 training examples, got TypeError: .*positional argument",
        ),
        (
            {"model": fails_in_model},
            r"model\(\) must make a model, got KeyError: 'width' \(line \d+ of test_checking.py\)$",
        ),
        ({"model": lambda: 3}, r"model\(\) must return a torch.nn.Module, got int"),
        ({"model": nn.Identity}, "model must have at least one parameter with requires_grad=True, got none"),
        ({"train": ["a", "b", "c", "d"]}, "every tensor of a batch must hold one example a row"),
        (
            {"train": [SimpleNamespace()] * 4},
            "train must give examples that can be collated, got TypeError: default_collate",
        ),
        (
            {"evaluation": TensorDataset(torch.ones(2, 5))},
            "evaluation must give examples that the loss works on, got RuntimeError",
        ),
        (
            {"metrics": {"error": lambda m, b: loss(m, b).mean()}},
            r"metric 'error' must return one value an example, shape \(1,\), got \(\)",
        ),
        (
            {"metrics": {"error": lambda m, b: 0.5}},
            r"metric 'error' must return one value an example, shape \(1,\), got float",
        ),
        (
            {"metrics": {"error": lambda m, b: m.width}},
            "metric 'error' must work on a batch of one example, got AttributeError",
        ),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused_in_one_line(changes, message):
    with pytest.raises(TaskError, match=message) as error:
        check_task(make(**changes))
    assert "\n" not in str(error.value)
