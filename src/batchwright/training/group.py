"""The processes of one job, and how they come to one mind: numbers are shared, and an error on one is an error on all.

All of it goes through the hosts (gloo), never through a device, so that nothing waits for a GPU.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchwright.core.errors import BatchwrightError, InputError, RankError

LOST = "another rank ended before its time, so this one cannot go on; what that rank wrote says why"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """What all ranks know alike after they have settled.

    Attributes:
        asked: Whether a rank was asked to stop.
        failed_size: Smallest micro-batch for which a rank had too little memory; 0 where everything fitted.
        missing: Whether a rank has a parameter without a gradient.
    """

    asked: bool = False
    failed_size: int = 0
    missing: bool = False


class Group:
    """A single process, which is of one mind with itself.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
    """

    rank = 0
    world_size = 1

    def settle(
        self,
        error: Exception | None = None,
        *,
        asked: bool = False,
        failed_size: int = 0,
        missing: bool = False,
    ) -> Settled:
        """Say how it went here, and hear how it went elsewhere; all ranks call this at the same place.

        A rank that meets an error anywhere between two calls comes here at once: so the others, who come here next, do not wait for
        it in vain.

        Args:
            error: What went wrong here.
            asked: Whether this rank was asked to stop.
            failed_size: Micro-batch for which there was too little memory here; 0 if there was not.
            missing: Whether a parameter has no gradient here.

        Raises:
            Exception: The error itself, on the lowest rank that has one.
            RankError: On every other rank, if one has an error, or is gone.
        """
        if error is not None:
            raise error
        return Settled(asked=asked, failed_size=failed_size, missing=missing)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside succeeds on all ranks or on none; errors as of `settle`."""
        if self.world_size == 1:
            yield
            return
        found: Exception | None = None
        try:
            yield
        except Exception as error:
            if was_told(error):
                raise
            found = error
        self.settle(found)

    def same(self, value: Any) -> Any:
        """The first rank's value, on all of them; of plain kinds, that JSON can hold."""
        return value

    def agree(self, values: list[float]) -> list[float]:
        """The first rank's numbers, to the last bit, on all of them."""
        return values

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks of a tensor on the CPU."""
        return values


class Processes(Group):
    """Several processes, through the hosts.

    Args:
        process_group: The ranks; the default group where left out.
    """

    def __init__(self, process_group: Any = None) -> None:
        import torch.distributed as dist

        self._dist = dist
        self.rank, self.world_size = dist.get_rank(process_group), dist.get_world_size(process_group)
        self._host = process_group
        if "gloo" not in str(dist.get_backend_config(process_group)):
            members = dist.get_process_group_ranks(process_group or dist.group.WORLD)
            self._host = dist.new_group(members, backend="gloo", use_local_synchronization=True)

    def settle(
        self,
        error: Exception | None = None,
        *,
        asked: bool = False,
        failed_size: int = 0,
        missing: bool = False,
    ) -> Settled:
        """As of `Group`."""
        table = torch.zeros(self.world_size, 4, dtype=torch.int64)
        table[self.rank] = torch.tensor([error is not None, asked, failed_size, missing])
        rows = self.sum(table).tolist()
        failed = [number for number, row in enumerate(rows) if row[0]]
        if failed:
            self._raise(failed[0], error)
        sizes = [row[2] for row in rows if row[2]]
        return Settled(
            asked=any(row[1] for row in rows), failed_size=min(sizes, default=0), missing=any(row[3] for row in rows)
        )

    def _raise(self, source: int, error: Exception | None) -> None:
        if self.rank == source:
            assert error is not None
            known = isinstance(error, BatchwrightError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            code = error.exit_code if isinstance(error, BatchwrightError) else BatchwrightError.exit_code
            self._broadcast({"text": text, "code": code}, source)
            error.told = True  # type: ignore[attr-defined]
            raise error
        found = self._broadcast(None, source)
        raise RankError(f"rank {source}: {found['text']}", exit_code=found["code"]) from error

    def same(self, value: Any) -> Any:
        """As of `Group`."""
        return self._broadcast(value, 0)

    def agree(self, values: list[float]) -> list[float]:
        """As of `Group`."""
        table = torch.tensor(values, dtype=torch.float64)
        self._from(table, 0)
        return [float(value) for value in table]

    def sum(self, values: Tensor) -> Tensor:
        """As of `Group`."""
        values = values.detach().clone()
        with _peers():
            self._dist.all_reduce(values, group=self._host)
        return values

    def _broadcast(self, value: Any, source: int) -> Any:
        data = json.dumps(value).encode() if self.rank == source else b""
        length = torch.tensor([len(data)])
        self._from(length, source)
        buffer = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == source:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._from(buffer, source)
        return json.loads(bytes(buffer.tolist()))

    def _from(self, tensor: Tensor, source: int) -> None:
        with _peers():
            number = source if self._host is None else self._dist.get_global_rank(self._host, source)
            self._dist.broadcast(tensor, src=number, group=self._host)


def was_told(error: BaseException) -> bool:
    """Whether all ranks know of this error already, or cannot be told of it."""
    return isinstance(error, RankError) or getattr(error, "told", False) or getattr(error, "untold", False)


@contextmanager
def in_step() -> Iterator[None]:
    """Passes of a sharded model, in which ranks wait for one another: an error cannot be told to the others, and ends this rank.

    Raises:
        RankError: In place of what a collective says when another rank is gone.
    """
    try:
        yield
    except Exception as error:
        words = ("Gloo", "gloo", "NCCL", "Connection")
        if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
            raise RankError(LOST) from error
        error.untold = True  # type: ignore[attr-defined]
        raise


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo says in many words that a connection is gone
        raise RankError(LOST) from error


def job_size() -> int:
    """Processes that a launcher such as ``torchrun`` has started, by the environment; 1 without one."""
    known = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return int(os.environ["WORLD_SIZE"]) if known else 1


# The addresses of a process's groups: each has its own name in one store, which lives as long as the process.
_store: Any = None
_groups_made = 0
# A wrapped model keeps its process group, and so gloo's threads, past the group's end. One of them may still have to
# drop the tensors of the last collective, for which it needs the interpreter; where that is going down already, the
# whole process aborts after a good run, and torchrun starts the job anew. Asleep, this thread gives them their turn.
LAST_WORDS_S = 0.3


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """The processes of this job; their process group is made, and taken down again, unless its user has made one before.

    Args:
        device: As of the command line: ``cpu`` needs gloo, everything else nccl too.

    Raises:
        InputError: If this torch has no gloo.
    """
    global _store, _groups_made
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        yield Processes() if dist.get_world_size() > 1 else Group()
        return
    if job_size() == 1:
        yield Group()
        return
    if not dist.is_available() or not dist.is_gloo_available():
        raise InputError("several processes must have torch with gloo, got one without; start a single process")
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    gpu = device != "cpu" and torch.cuda.is_available() and dist.is_nccl_available()
    if _store is None:
        _store, _, _ = next(iter(rendezvous("env://")))
    # torchrun's store outlives ranks that it starts anew, and with it the addresses of those that are gone.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"batchwright/{attempt}/{_groups_made}", _store)
    _groups_made += 1
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(
        backend, store=store, rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
    )
    try:
        group = Processes()
        yield group
        group.settle()  # nobody leaves while another still needs it
        time.sleep(LAST_WORDS_S)
    finally:
        dist.destroy_process_group()
