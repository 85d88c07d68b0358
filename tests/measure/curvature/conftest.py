"""Small networks of each kind with random data, and their dense Hessians, for the tests of this folder."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from batchwright.core.batches import batch_length
from batchwright.tasks.char_gpt import CharGPT, sequence_loss
from batchwright.tasks.resnet import ResNet

Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    model: nn.Module
    loss: Loss
    batch: tuple[Tensor, ...]


def classification(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def mlp() -> Case:
    model = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 4))
    return Case(model=model, loss=classification, batch=(torch.randn(20, 6), torch.randint(4, (20,))))


def cnn_with_frozen_batch_norm() -> Case:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    images = torch.randn(12, 2, 6, 6)
    model(images)  # running statistics other than zero and one
    return Case(model=model.eval(), loss=classification, batch=(images, torch.randint(3, (12,))))


def resnet() -> Case:
    model = ResNet(depth=8, num_classes=3)
    images = torch.randn(6, 3, 8, 8)
    model(images)
    return Case(model=model.eval(), loss=classification, batch=(images, torch.randint(3, (6,))))


def gpt() -> Case:
    model = CharGPT(num_symbols=5, context=6, width=8, num_heads=2, num_layers=1)
    return Case(model=model, loss=sequence_loss, batch=(torch.randint(5, (7, 7)),))


CASES = {"mlp": mlp, "cnn": cnn_with_frozen_batch_norm, "resnet": resnet, "gpt": gpt}


def make(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """A case with fixed weights and data."""
    torch.manual_seed(0)
    case = CASES[name]()
    batch = tuple(leaf.to(dtype) if leaf.is_floating_point() else leaf for leaf in case.batch)
    return Case(model=case.model.to(dtype), loss=case.loss, batch=batch)


def flat_function(
    model: nn.Module, function: Callable[[nn.Module], Tensor]
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """``function`` of the model as one of its flat trainable parameters, and those parameters."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return function(self.model)

    called = Called()

    def of_flat(flat: Tensor) -> Tensor:
        pieces = flat.split([value.numel() for value in parameters.values()])
        values = {
            f"model.{name}": piece.view_as(value)
            for (name, value), piece in zip(parameters.items(), pieces, strict=True)
        }
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return functional_call(called, values, ())

    return of_flat, torch.cat([value.detach().reshape(-1) for value in parameters.values()])


def dense_hessian(model: nn.Module, loss: Loss, batches: list[tuple[Tensor, ...]]) -> Tensor:
    """Hessian of the mean loss over all examples, by plain autograd row by row."""
    count = sum(batch_length(batch) for batch in batches)
    function, flat = flat_function(model, lambda m: sum(loss(m, batch).sum() for batch in batches) / count)
    return torch.autograd.functional.hessian(function, flat)


def largest_by_arpack(model: nn.Module, loss: Loss, batch: tuple[Tensor, ...]) -> float:
    """Largest Hessian eigenvalue where a dense Hessian is too large: another package's search with torch's own products."""
    function, flat = flat_function(model, lambda m: loss(m, batch).mean())
    operator = LinearOperator(
        (len(flat), len(flat)),
        matvec=lambda v: torch.autograd.functional.hvp(function, flat, torch.from_numpy(v))[1].numpy(),
        dtype=np.float64,
    )
    start = np.random.default_rng(7).standard_normal(len(flat))
    return float(eigsh(operator, k=1, which="LA", tol=1e-8, v0=start, return_eigenvectors=False)[0])


@pytest.fixture
def by_arpack() -> Callable[..., float]:
    return largest_by_arpack


@pytest.fixture
def make_case() -> Callable[..., Case]:
    return make


@pytest.fixture
def dense() -> Callable[..., Tensor]:
    return dense_hessian


@pytest.fixture
def flat_of() -> Callable[..., tuple[Callable[[Tensor], Tensor], Tensor]]:
    return flat_function


class Quadratic(nn.Module):
    """A model whose Hessian is diagonal with the given eigenvalues."""

    def __init__(self, eigenvalues: Tensor, point: Tensor) -> None:
        super().__init__()
        self.register_buffer("eigenvalues", eigenvalues)
        self.point = nn.Parameter(point)

    def forward(self, batch: Tensor) -> Tensor:
        return (0.5 * self.eigenvalues * self.point.square()).sum().expand(len(batch))


@pytest.fixture
def quadratic() -> Callable[..., Case]:
    def make_quadratic(eigenvalues: Tensor, point: Tensor | None = None) -> Case:
        model = Quadratic(eigenvalues, torch.ones_like(eigenvalues) if point is None else point)
        return Case(model=model, loss=lambda model, batch: model(batch[0]), batch=(torch.zeros(2, 1),))

    return make_quadratic
