"""Batches drawn uniformly without replacement, each anew from the whole training set, as the theory has it."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

BLOCK = 64


def draw(num_train: int, batch_size: int, generator: torch.Generator, num_batches: int) -> Int[Tensor, "T B"]:
    """Positions of ``num_batches`` independent batches; no example is twice in one batch."""
    keys = torch.rand(num_batches, num_train, generator=generator)
    return keys.topk(batch_size, dim=1, sorted=False).indices


def batch_stream(
    num_train: int, batch_size: int, generators: Sequence[torch.Generator], copies: int, num_steps: int
) -> Iterator[Int[Tensor, "E B"] | None]:
    """``num_steps`` batches for an ensemble: each generator's batch goes to ``copies`` neighbouring members.

    The full data set needs no draw and is given as None.
    """
    if batch_size >= num_train:
        for _ in range(num_steps):
            yield None
        return
    for start in range(0, num_steps, BLOCK):
        number = min(BLOCK, num_steps - start)
        drawn = torch.stack([draw(num_train, batch_size, each, number) for each in generators], dim=1)
        yield from drawn.repeat_interleave(copies, dim=1)
