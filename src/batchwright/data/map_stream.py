"""Examples of a map-style data set in a seeded order, for batches whose size may change at any step, on any number of ranks.

Every example has a place: ``epoch * N`` plus its place in the order of that epoch. Rank ``r`` of ``R`` owns the places ``r``,
``r + R``, … whatever the batch sizes are, so what a rank will need next is known ahead and workers can fetch it; a batch is a stretch
of places, and ranks share it evenly to within one example. One place is all the state there is.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from batchwright.core.batches import Batch
from batchwright.core.checks import check_choice, check_int
from batchwright.core.errors import InputError
from batchwright.data.access import fetch, num_examples
from batchwright.data.recut import Recut
from batchwright.data.samplers import epoch_order

LAST_BATCHES = ("short", "wrap", "drop")
Collate = Callable[[list[Any]], Batch]


class MapStream:
    """Every example exactly once an epoch, in a fresh random order each.

    Args:
        dataset: Map-style.
        seed: Of the orders, and of the random numbers that workers draw.
        shuffle: Whether the order is random; else it is the data set's own.
        last: What becomes of the last batch of an epoch that is not whole: used as it is (``short``), filled up from the next epoch
            (``wrap``), or left out (``drop``).
        rank: Number of this process.
        world_size: Number of processes.
        collate_fn: Makes a batch of a list of examples.
        num_workers: Processes that fetch ahead; 0 fetches when asked.
        chunk_size: Examples that a worker fetches at a time.
        pin_memory: As of `torch.utils.data.DataLoader`; only with workers.

    Attributes:
        num_examples: In an epoch, on all ranks together.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        seed: int = 0,
        shuffle: bool = True,
        last: str = "short",
        rank: int = 0,
        world_size: int = 1,
        collate_fn: Collate | None = None,
        num_workers: int = 0,
        chunk_size: int = 32,
        pin_memory: bool = False,
    ) -> None:
        self.num_examples: int | None = num_examples(dataset, "dataset")
        self._length = self.num_examples
        self._dataset, self._collate = dataset, collate_fn
        self._seed, self._shuffle = check_int("seed", seed, at_least=0), shuffle
        self._last = check_choice("last", last, LAST_BATCHES)
        self._rank, self._world_size = rank, world_size
        self._num_workers = check_int("num_workers", num_workers, at_least=0)
        self._chunk_size = check_int("chunk_size", chunk_size, at_least=1)
        self._pin_memory = pin_memory
        self._place = self._reserved = self._taken = 0
        self._orders: dict[int, Tensor] = {}
        self._loader: DataLoader | None = None
        self._recut: Recut | None = None
        self._fetched = -1  # number, among those of this rank, of the example that the workers give next

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return self._place // self._length

    def reserve(self, batch_size: int) -> int:
        """Begin a batch; its examples on all ranks, 0 at the end of an epoch whose rest is left out."""
        left = self._length - self._place % self._length
        if self._last == "drop" and left < batch_size:
            if left == self._length:
                raise InputError(
                    f"batch_size must be at most the number of examples with last='drop', got {batch_size} for {left}; "
                    "nothing would ever be trained on"
                )
            self._place += left
            return 0
        self._reserved = min(batch_size, self._length if self._last == "wrap" else left)
        self._taken = 0
        return self._reserved

    @property
    def share(self) -> int:
        """Examples of the begun batch that belong to this rank."""
        return self._owned_before(self._place + self._reserved) - self._owned_before(self._place)

    @property
    def largest_share(self) -> int:
        """The largest share of any rank."""
        return -(-self._reserved // self._world_size)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left of this rank's share."""
        return self._taken >= self.share

    @property
    def has_more(self) -> bool:
        """Whether the epoch has another example."""
        return True

    def take(self, count: int) -> tuple[Batch, int]:
        """The next examples of the share, with their number."""
        first = self._owned_before(self._place) + self._taken
        self._taken += count
        return self._fetch(first, count), count

    def stand_in(self) -> Batch:
        """Some example as a batch of one, for a rank whose share is empty."""
        return self._collated(self._indices(self._owned_before(self._place), 1))

    def keep(self) -> None:
        """Make the begun batch fit for `rewind`."""

    def rewind(self) -> None:
        """Back to the beginning of the begun batch."""
        self._taken = 0

    def commit(self) -> None:
        """The begun batch has been used; what a rank has not taken of it is passed over."""
        self._place += self._reserved
        self._reserved = self._taken = 0

    def next_epoch(self) -> None:
        """Nothing to be done: an epoch ends at its last place."""

    def state_dict(self) -> dict[str, Any]:
        """Three numbers; the same on all ranks, and good for any number of them."""
        return {"kind": "map", "seed": self._seed, "place": self._place, "num_examples": self._length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            InputError: If it is that of another data set.
        """
        if state.get("kind") != "map" or state["num_examples"] != self._length:
            raise InputError(
                f"state must be that of a map-style data set of {self._length} examples, got {state.get('kind')} of "
                f"{state.get('num_examples')}; resume with the data set of the run"
            )
        self._seed, self._place = state["seed"], state["place"]
        self._reserved = self._taken = 0
        self._orders.clear()
        self._recut = None

    def _owned_before(self, place: int) -> int:
        """How many places of this rank lie before ``place``."""
        return max(0, -(-(place - self._rank) // self._world_size))

    def _indices(self, first: int, count: int) -> Int[Tensor, " B"]:
        """Indices in the data set of this rank's examples from number ``first`` on."""
        start = self._rank + first * self._world_size
        stop = start + (count - 1) * self._world_size + 1
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self._length)
            end = min(stop - epoch * self._length, self._length)
            part = self._order(epoch)[offset : end : self._world_size]
            parts.append(part)
            start += len(part) * self._world_size
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            for old in [known for known in self._orders if abs(known - epoch) > 1]:
                del self._orders[old]
            self._orders[epoch] = (
                epoch_order(self._length, self._seed, epoch) if self._shuffle else torch.arange(self._length)
            )
        return self._orders[epoch]

    def _fetch(self, first: int, count: int) -> Batch:
        if self._num_workers == 0:
            return self._collated(self._indices(first, count))
        if self._recut is None or first != self._fetched:
            self._seek(first)
        assert self._recut is not None
        batch, found = self._recut.take(count)
        assert found == count  # the workers go on through all epochs
        self._fetched = first + count
        return batch

    def _collated(self, indices: Tensor) -> Batch:
        if self._collate is None:
            return fetch(self._dataset, indices)
        return self._collate(examples_at(self._dataset, indices.tolist()))

    def _seek(self, first: int) -> None:
        """Let the workers begin at this rank's example number ``first``."""
        chunk, offset = divmod(first, self._chunk_size)
        if self._loader is None:
            self._loader = DataLoader(
                _Seeded(self._dataset),
                batch_sampler=_Chunks(self),
                collate_fn=self._collate or default_collate,
                num_workers=self._num_workers,
                persistent_workers=True,
                pin_memory=self._pin_memory,
                # A generator of its own: the loader would draw from the global one, at other times in a resumed run.
                generator=torch.Generator().manual_seed(self._seed % 2**63),
            )
        self._loader.batch_sampler.first = chunk  # type: ignore[union-attr]
        self._recut = Recut(iter(self._loader))
        self._recut.skip(offset)
        self._fetched = first

    def chunk(self, number: int) -> list[tuple[int, int]]:
        """Indices of a chunk, each with the seed of the chunk."""
        seed = (self._seed * 1_000_003 + number * self._world_size + self._rank) % (2**63 - 1)
        return [(seed, index) for index in self._indices(number * self._chunk_size, self._chunk_size).tolist()]


class _Chunks:
    """The chunks of a stream from one on, without end."""

    def __init__(self, stream: MapStream) -> None:
        self.first, self._stream = 0, stream

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        number = self.first
        while True:
            yield self._stream.chunk(number)
            number += 1


class _Seeded(Dataset):
    """A data set whose random numbers in a worker depend on the chunk alone, not on the worker or on where it began."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        seed = keys[0][0]
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        return examples_at(self._dataset, [index for _, index in keys])

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self.__getitems__([key])[0]


def examples_at(dataset: Any, positions: list[int]) -> list[Any]:
    """The examples at these positions, asked for at once where the data set can do so."""
    if callable(getattr(dataset, "__getitems__", None)):
        return list(dataset.__getitems__(positions))
    return [dataset[position] for position in positions]
