"""Examples of an iterable data set or of a user's DataLoader, cut anew into batches of the sizes that are wanted.

What comes and in which order is the source's own affair, also which examples a rank gets of several. Its length need not be known:
the last batch of an epoch ends where the source ends.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from batchwright.core.batches import Batch, batch_length
from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState
from batchwright.data.recut import Recut


class LoaderStream:
    """Batches of any size from something that is gone through in order.

    Resumed in the middle of an epoch, it asks the source for its own state where that has ``state_dict`` and ``load_state_dict``. Else
    the epoch is begun again with the random numbers of its beginning, and what was used is passed over, which takes the time of loading
    it. What the source had handed over and no batch had used is handed over again: random numbers that it draws for each example from
    this process's global generators are drawn anew for those, and only for those.

    Args:
        source: A `DataLoader` or another iterable of batches; each ``iter()`` begins an epoch.
        stateful: What is asked for its state; None where nothing has one.
        generator: Seeded from seed and epoch at the start of each epoch; for a source that draws from it.
        seed: Of ``generator``.
        rank: Number of this process.
        world_size: Number of processes.

    Attributes:
        num_examples: None: not known before the end.
        epoch: Epochs that are finished.
    """

    def __init__(
        self,
        source: Any,
        *,
        stateful: Any = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_examples: int | None = None
        self.epoch = 0
        self._source, self._stateful = source, stateful
        self._generator, self._seed = generator, seed
        self._rank, self._world_size = rank, world_size
        self._reserved = self._taken = self._position = 0
        self._recut: Recut | None = None
        self._start: dict[str, Any] | None = None  # random numbers at the start of the epoch
        self._states: list[tuple[int, Any]] = []  # of the source, by the examples that it had handed over
        self._resumed: dict[str, Any] | None = None

    def reserve(self, batch_size: int) -> int:
        """Begin a batch of so many examples on all ranks, or of as many as there are.

        Raises:
            InputError: If the source gives nothing at all.
        """
        if self._recut is None:
            self._open()
        assert self._recut is not None
        if not self._recut.fill(1):
            raise InputError(
                "dataset must hold at least one example an epoch, got none; an iterator can be gone through once only: "
                "give something whose iter() begins anew"
            )
        self._reserved, self._taken = batch_size, 0
        return batch_size

    @property
    def share(self) -> int:
        """Examples of the begun batch that this rank shall have, if there are so many."""
        return max(0, -(-(self._reserved - self._rank) // self._world_size))

    @property
    def largest_share(self) -> int:
        """The largest share of any rank."""
        return -(-self._reserved // self._world_size)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left of this rank's share; it may pull the next batch out of the source."""
        return self._taken >= self.share or not self.has_more

    @property
    def has_more(self) -> bool:
        """Whether the source has another example in this epoch; it may pull the next batch."""
        return self._recut is not None and self._recut.fill(1) > 0

    def take(self, count: int) -> tuple[Batch, int]:
        """The next examples of the share, with their number: fewer where the source ends."""
        assert self._recut is not None
        batch, found = self._recut.take(count)
        self._taken += found
        return batch, found

    def stand_in(self) -> Batch:
        """Some example as a batch of one, for a rank whose share is empty."""
        assert self._recut is not None
        return self._recut.peek()

    def keep(self) -> None:
        """Make the begun batch fit for `rewind`: its examples are held until `commit`."""
        assert self._recut is not None
        self._recut.mark()

    def rewind(self) -> None:
        """Back to the beginning of the begun batch."""
        assert self._recut is not None
        self._recut.rewind()
        self._taken = 0

    def commit(self) -> None:
        """The begun batch has been used."""
        if self._recut is not None:
            self._recut.unmark()
        self._position += self._taken
        self._reserved = self._taken = 0
        while len(self._states) > 1 and self._states[1][0] <= self._position:
            self._states.pop(0)

    def next_epoch(self) -> None:
        """Leave out what is left of this epoch."""
        self.epoch += 1
        self._position = 0
        self._recut, self._start, self._states = None, None, []

    def state_dict(self) -> dict[str, Any]:
        """Epoch and place of this rank, and what is needed to come there again."""
        if self._resumed is not None:
            return self._resumed
        handed, state = self._states[0] if self._states else (0, None)
        own = None if self._own is None else self._own.get_state()
        return {
            "kind": "loader",
            "epoch": self.epoch,
            "position": self._position,
            "start": self._start,
            "own": own,
            "source": {"handed": handed, "state": state},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the source is opened with the next batch.

        Raises:
            InputError: If it is that of another kind of data set.
        """
        if state.get("kind") != "loader":
            raise InputError(
                f"state must be that of a DataLoader or an iterable data set, got {state.get('kind')}; resume with the data of the run"
            )
        self.epoch, self._position = state["epoch"], state["position"]
        self._reserved = self._taken = 0
        self._recut, self._start, self._states = None, state["start"], []
        self._resumed = state
        if self._own is not None and state["own"] is not None:
            self._own.set_state(state["own"].cpu())

    def _open(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is None or resumed["start"] is None:
            own = None if self._own is None else self._own.get_state()
            self._start = {"random": RandomState.capture().to_state(), "own": own}
            self._recut = Recut(self._chunks(0, self._iterator()))
            return
        now = RandomState.capture()
        RandomState.from_state(resumed["start"]["random"]).restore()
        handed = 0
        if resumed["source"]["state"] is not None and self._stateful is not None:
            handed = resumed["source"]["handed"]
            self._stateful.load_state_dict(copy.deepcopy(resumed["source"]["state"]))
        iterator = self._iterator(resumed["start"]["own"])
        self._recut = Recut(self._chunks(handed, iterator))
        missing = self._position - handed
        found = self._recut.skip(missing)
        now.restore()
        if found < missing:
            raise InputError(
                f"dataset must be that of the run, which had used {self._position} examples of this epoch, got one of "
                f"{handed + found}; resume with the same data"
            )

    @property
    def _own(self) -> torch.Generator | None:
        """The generator of a user's loader."""
        return None if self._generator is not None else getattr(self._source, "generator", None)

    def _iterator(self, own: torch.Tensor | None = None) -> Iterator[Batch]:
        if self._generator is not None:
            self._generator.manual_seed((self._seed * 1_000_003 + self.epoch) % (2**63 - 1))
        elif own is not None and self._own is not None:
            self._own.set_state(own.cpu())
        for name in ("dataset", "sampler", "batch_sampler"):
            told = getattr(getattr(self._source, name, None), "set_epoch", None)
            if callable(told):
                told(self.epoch)
        return iter(self._source)

    def _chunks(self, handed: int, iterator: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            if self._stateful is not None and handed:
                self._states.append((handed, copy.deepcopy(self._stateful.state_dict())))
            elif self._stateful is not None:
                self._states.append((0, None))  # the beginning needs no state, and some sources have none there
            try:
                chunk = next(iterator)
            except StopIteration:
                return
            handed += batch_length(chunk)
            yield chunk


def is_loader(dataset: Any) -> bool:
    """Whether this gives batches already: a `DataLoader` of torch, or one made like it."""
    return isinstance(dataset, DataLoader) or (hasattr(dataset, "collate_fn") and hasattr(dataset, "dataset"))
