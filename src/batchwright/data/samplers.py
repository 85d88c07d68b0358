"""Random order over a data set, for batches whose size may change at any step, with a state of three integers."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerState:
    """Where a sampler stands: it is all that a checkpoint needs."""

    seed: int
    epoch: int
    position: int


class EpochSampler:
    """Indices in a fresh random order each epoch; every example is drawn exactly once an epoch.

    A batch that runs over the end of an epoch goes on in the next one, so every batch has exactly the size asked for.
    The order of epoch ``e`` depends on the seed and ``e`` alone.
    """

    def __init__(self, num_examples: int, seed: int = 0) -> None:
        self._num_examples = check_int("num_examples", num_examples, at_least=1)
        self._seed = check_int("seed", seed, at_least=0)
        self._epoch = 0
        self._position = 0
        self._order = self._order_of(0)

    def take(self, batch_size: int) -> Int[Tensor, " B"]:
        """The next ``batch_size`` indices.

        Raises:
            InputError: If the batch is larger than the data set, so that an example would count twice in it.
        """
        check_int("batch_size", batch_size, at_least=1)
        if batch_size > self._num_examples:
            raise InputError(
                f"batch_size must be at most the number of training examples, got {batch_size} for "
                f"{self._num_examples}; use {self._num_examples} or fewer"
            )
        parts = []
        while batch_size > 0:
            part = self._order[self._position : self._position + batch_size]
            parts.append(part)
            batch_size -= len(part)
            self._position += len(part)
            if self._position == self._num_examples:
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._order_of(self._epoch)
        return torch.cat(parts)

    @property
    def state(self) -> SamplerState:
        """The present state, to give to `restore`."""
        return SamplerState(seed=self._seed, epoch=self._epoch, position=self._position)

    def restore(self, state: SamplerState) -> None:
        """Go on from ``state`` exactly.

        Raises:
            InputError: If its position is not one of this data set.
        """
        if not 0 <= state.position < self._num_examples:
            raise InputError(
                f"position must lie in the data set, from 0 to {self._num_examples - 1}, got {state.position}; the state is of "
                "another data set"
            )
        self._seed, self._epoch, self._position = state.seed, state.epoch, state.position
        self._order = self._order_of(self._epoch)

    def _order_of(self, epoch: int) -> Tensor:
        return epoch_order(self._num_examples, self._seed, epoch)


def epoch_order(num_examples: int, seed: int, epoch: int) -> Int[Tensor, " N"]:
    """The random order of an epoch; it depends on these numbers alone."""
    # One generator an epoch, seeded by both numbers: resuming needs no replay of the epochs before.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (2**63 - 1))
    return torch.randperm(num_examples, generator=generator)
