"""Workers in processes of this machine: spawned, one torch thread each, and gone when the driver is."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from batchwright.core.errors import InputError
from batchwright.core.host import num_usable_cpus
from batchwright.tuning.lanes import Lane, LaneExecutor, WorkerLostError

# Seconds in which a worker that is told to end does so by itself.
GRACE_S = 1.0


class LocalLane(Lane):
    """A spawned process that answers calls through a pipe."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True, name="batchwright-worker")
        self.process.start()
        theirs.close()  # so that the death of the worker is the end of the pipe
        self._ready = False

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], limit_s: float | None) -> Any:
        """The result of the function in the worker."""
        try:
            if not self._ready:  # its imports take seconds, or many on a busy machine, and are no trial's time
                self._ours.recv()
                self._ready = True
            self._ours.send((function, arguments))
            if not self._ours.poll(limit_s):
                raise TimeoutError(f"the trial took longer than {limit_s:g} s, and its worker was killed")
            answered, result = self._ours.recv()
        except (EOFError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            self.process.join(GRACE_S)
            raise WorkerLostError(_reason(self.process.exitcode)) from error
        if not answered:
            raise result
        return result

    def close(self) -> None:
        """Kill the process."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join(GRACE_S)
        self._ours.close()


def local_executor(workers: int | None = None, *, limit_s: float | None = None) -> LaneExecutor:
    """An executor of spawned processes.

    Args:
        workers: Processes; as many as there are usable processors where left out.
        limit_s: Seconds of a call after which its process is killed.
    """
    return LaneExecutor(LocalLane, workers or num_usable_cpus(), limit_s=limit_s)


def check_picklable(value: Any, name: str) -> None:
    """Refuse what cannot travel to another process, with the way out.

    Raises:
        InputError: If it cannot.
    """
    try:
        ForkingPickler.dumps(value)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name} must be picklable to travel to worker processes, got {type(value).__name__}: {reason}; name a task as "
            "'file.py:make_task', define a function at the top of a module, or give "
            "executor=concurrent.futures.ThreadPoolExecutor(1) to stay in this process"
        ) from error


def _serve(connection: Connection) -> None:
    """Answer calls until the pipe ends."""
    # A terminal sends Ctrl-C to all; the driver decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    import batchwright.tuning.job  # noqa: F401 - what a trial needs is loaded before its time begins

    torch.set_num_threads(1)
    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        except Exception as error:  # what was sent cannot be made here, as a function of a script without a guard
            connection.send((False, InputError(f"a worker cannot take its trial: {type(error).__name__}: {error}")))
            continue
        try:
            connection.send((True, function(*arguments)))
        except Exception as error:
            connection.send((False, InputError(f"a worker cannot answer: {type(error).__name__}: {error}")))


def _end_with_parent() -> None:
    """A killed driver takes its workers with it, also in the middle of a trial."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"its worker was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"its worker was killed by signal {-code}"
    return (
        f"its worker ended with exit code {code}; "
        "a script must start its search under if __name__ == '__main__', since workers import it"
    )
