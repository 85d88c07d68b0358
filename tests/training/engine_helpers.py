"""What the tests of the engine share: a small job, and the loop that its user would write by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from batchwright.core.vectors import flatten
from batchwright.training.engine import BatchEngine

DIM, CLASSES = 6, 3


def make_data(num_examples: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_examples, DIM, generator=generator, dtype=dtype)
    labels = torch.randint(CLASSES, (num_examples,), generator=generator)
    return TensorDataset(inputs, labels)


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(DIM, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, CLASSES)]
    return nn.Sequential(*layers).to(dtype)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def big_batch_gradient(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The gradient that one forward pass of the whole batch gives, without touching ``.grad``."""
    return flatten(torch.autograd.grad(loss(model, batch).mean(), list(model.parameters())))


def gradient(model: nn.Module) -> Tensor:
    return flatten([parameter.grad for parameter in model.parameters()])


def parameters(model: nn.Module) -> Tensor:
    return flatten(model.parameters())


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def run(engine: BatchEngine, num_updates: int) -> list[int]:
    """So many updates, over as many epochs as they take; the batch sizes of them."""
    sizes: list[int] = []
    while len(sizes) < num_updates:
        for update in engine:
            for batch in update:
                update.backward(loss(engine.model, batch))
            sizes.append(update.batch_size)
            if len(sizes) == num_updates:
                break
    return sizes
