"""Losses with known per-example Hessians: ``0.5 (theta - c_i)^T H_i (theta - c_i)``, gradient ``H_i (theta - c_i)``."""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

DIM, POOL = 6, 40


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.theta = nn.Parameter(torch.randn(DIM, generator=generator))


@cache
def pool() -> tuple[Tensor, Tensor]:
    """Hessians ``(POOL, DIM, DIM)`` and centres ``(POOL, DIM)``."""
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(POOL, DIM, DIM, generator=generator)
    scale = torch.linspace(0.3, 1.0, DIM)
    return scale[:, None] * (roots @ roots.mT) * scale / DIM, 0.7 * torch.randn(POOL, DIM, generator=generator)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    hessians, centres = batch
    away = model.theta - centres
    return 0.5 * torch.einsum("bi,bij,bj->b", away, hessians, away)


def draw(num: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches drawn with replacement from the pool, so independent, with the pool's mean as expectation."""
    generator = torch.Generator().manual_seed(seed)
    hessians, centres = pool()
    found = [torch.randint(POOL, (size,), generator=generator) for _ in range(num)]
    return [(hessians[each], centres[each]) for each in found]


def parts(batch: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Hessian and gradient of one batch in NumPy, from the formulas."""
    hessians, centres = (leaf.double().numpy() for leaf in batch)
    theta = Point().theta.detach().double().numpy()
    return hessians.mean(0), np.einsum("bij,bj->bi", hessians, theta - centres).mean(0)
