"""Ranks for tests: forked from the test process, so that importing torch does not take their time."""

import functools
import json
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

LIMIT_S = 200.0


@functools.cache
def warm_up() -> None:
    """What a process imports late, and takes seconds for, is imported before it forks."""
    import torch.distributed.fsdp
    import torch.distributed.tensor

    import batchwright.cli.app
    import batchwright.training.loop  # noqa: F401

    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        kind([weight], lr=0.1).step()


needs_ranks = [
    pytest.mark.skipif(
        not hasattr(os, "fork") or not dist.is_available() or not dist.is_gloo_available(),
        reason="needs fork, and a torch with gloo",
    ),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


class Job:
    """Ranks under way; each runs ``function(rank)`` as ``torchrun`` would start it, and its result comes back through JSON."""

    def __init__(self, world_size: int, function: Callable[[int], Any], folder: Path) -> None:
        warm_up()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.world_size = folder, world_size
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        forks = multiprocessing.get_context("fork")
        self.ranks = [
            forks.Process(target=_rank, args=(rank, world_size, port, function, folder)) for rank in range(world_size)
        ]
        for rank in self.ranks:
            rank.start()

    def kill(self, rank: int) -> None:
        self.ranks[rank].kill()

    def codes(self, limit_s: float = LIMIT_S, *, launcher: bool = False) -> list[int | None]:
        """Exit codes when all have ended: by themselves, or as under a launcher, which ends the rest after the first failure."""
        end, failed = time.monotonic() + limit_s, False
        while any(rank.is_alive() for rank in self.ranks) and time.monotonic() < end:
            if launcher and not failed and any(rank.exitcode for rank in self.ranks):
                end, failed = min(end, time.monotonic() + 10.0), True
            time.sleep(0.01)
        hung = [] if failed else [number for number, rank in enumerate(self.ranks) if rank.is_alive()]
        for rank in self.ranks:
            rank.kill()
            rank.join()
        assert not hung, f"ranks {hung} did not end"
        return [rank.exitcode for rank in self.ranks]

    def results(self) -> list[Any]:
        codes = self.codes(400, launcher=True)
        errors = [path.read_text() for path in sorted(self.folder.glob("error-*"))]
        assert codes == [0] * self.world_size, "\n".join(errors) or codes
        return [json.loads((self.folder / f"result-{rank}").read_text()) for rank in range(self.world_size)]


def on_ranks(world_size: int, function: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``function(rank)`` gave on each rank."""
    return Job(world_size, function, folder).results()


def _rank(rank: int, world_size: int, port: int, function: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if world_size > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    code = 0
    try:
        result = function(rank)
        (folder / f"result-{rank}").write_text(json.dumps(result))
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        code = 1
    if world_size > 1:
        # The first rank holds the store: it leaves last, and nobody by way of the interpreter's end, which pytest holds.
        (folder / f"left-{rank}").touch()
        end = time.monotonic() + 10.0
        while rank == 0 and code == 0 and time.monotonic() < end:
            if all((folder / f"left-{other}").exists() for other in range(world_size)):
                break
            time.sleep(0.01)
    os._exit(code)
