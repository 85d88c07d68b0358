"""One trial as a worker runs it: whatever the objective raises, or takes too long for, is an outcome and not the end of the search."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from batchwright.tuning.objective import Objective, Values
from batchwright.tuning.outcome import Incumbent, Outcome

# What a failure says of itself, in characters.
MAX_NOTE = 300


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A trial that is to be run.

    Attributes:
        id: Of the trial.
        objective: What is run.
        values: The setting.
        seed: Of the trial.
        incumbent: What it must have a chance against; None in the first round.
        timeout_s: Seconds after which it fails; None for no limit.
        num_threads: Of torch in the worker; None leaves them.
    """

    id: int
    objective: Objective
    values: Values
    seed: int
    incumbent: Incumbent | None = None
    timeout_s: float | None = None
    num_threads: int | None = 1


def run_job(job: Job) -> Outcome:
    """Run a trial; an exception or a time-out is a failed outcome."""
    start = time.perf_counter()
    threads = torch.get_num_threads()
    try:
        if job.num_threads is not None and job.num_threads != threads:
            torch.set_num_threads(job.num_threads)
        with deadline(job.timeout_s):
            return job.objective(job.values, job.seed, job.incumbent)
    except Exception as error:
        note = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_NOTE]
        return Outcome.failure(note, seconds=time.perf_counter() - start)
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise `TimeoutError` in Python code that takes longer; only in a main thread on a system with timers."""
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def out_of_time(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the trial took longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
