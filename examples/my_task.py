"""A task of your own: a model, one loss an example, data, an optimizer and a target.

Try it with ``batchwright plan examples/my_task.py:make_task``.
"""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import batchwright as bw


def make_model() -> nn.Module:
    """A fresh model; every run calls this anew, after seeding torch."""
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One loss an example, shape (B,): no mean here, the library takes it."""
    inputs, targets = batch
    return (model(inputs).squeeze(1) - targets).square()


def make_data(num_examples: int, generator: torch.Generator) -> TensorDataset:
    """Your data: any data set with ``__len__`` and ``__getitem__``; here a sine of the sum of four inputs, with noise."""
    inputs = torch.randn(num_examples, 4, generator=generator)
    noise = 0.3 * torch.randn(num_examples, generator=generator)
    return TensorDataset(inputs, torch.sin(inputs.sum(dim=1)) + noise)


def make_task() -> bw.Task:
    """What Batchwright calls."""
    generator = torch.Generator().manual_seed(0)
    return bw.Task(
        name="my-task",
        model=make_model,
        loss=loss,
        train=make_data(8192, generator),
        evaluation=make_data(1024, generator),
        # The settings you use today, and the batch size they belong to: plans are made relative to them.
        optimizer=bw.OptimizerSpec(name="adam", lr=3e-3),
        batch_size=32,
        # Training is done when the evaluation loss gets here; the noise alone accounts for 0.09.
        target=bw.Target(value=0.12),
        description="a sine of four inputs, two-layer perceptron",
    )
