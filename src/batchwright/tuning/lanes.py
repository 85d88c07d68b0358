"""An executor of lanes: each worker stands in a lane of its own, so the death of one is told of one trial and costs no other."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any

from batchwright.core.checks import check_int
from batchwright.core.errors import BatchwrightError


class WorkerLostError(BatchwrightError, RuntimeError):
    """The process of a worker ended in the middle of a call."""


class Lane(ABC):
    """One worker that makes one call at a time."""

    @abstractmethod
    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], limit_s: float | None) -> Any:
        """The result of ``function(*arguments)``.

        Raises:
            WorkerLostError: If the worker died.
            TimeoutError: If it took longer than ``limit_s``; the worker is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """End the worker, whatever it does."""


class LaneExecutor(Executor):
    """A `concurrent.futures.Executor` whose workers are lanes; a lost one is made anew for the next call.

    Args:
        make_lane: Makes a worker; called when it is first needed.
        num_lanes: Workers.
        limit_s: Seconds of a call after which its worker is killed; None for no limit.
    """

    def __init__(self, make_lane: Callable[[], Lane], num_lanes: int, *, limit_s: float | None = None) -> None:
        self.num_lanes = check_int("workers", num_lanes, at_least=1)
        self.limit_s, self._make_lane = limit_s, make_lane
        self._threads = ThreadPoolExecutor(num_lanes, thread_name_prefix="batchwright-lane")
        self._lanes: SimpleQueue[Lane | None] = SimpleQueue()
        self._open: set[Lane] = set()
        self._closed = Event()
        for _ in range(num_lanes):
            self._lanes.put(None)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn(*args)`` in the first lane that is free; keywords are not passed on."""
        if kwargs:
            raise TypeError("submit of a LaneExecutor takes no keywords")
        return self._threads.submit(self._call, fn, args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; with ``cancel_futures`` also those that are in the middle of a call."""
        if cancel_futures:
            self._closed.set()
            for lane in list(self._open):
                lane.close()
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        self._closed.set()
        for lane in list(self._open):
            lane.close()
        self._open.clear()

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        lane = self._lanes.get()
        try:
            if self._closed.is_set():
                raise WorkerLostError("the executor was shut down")
            if lane is None:
                lane = self._make_lane()
                self._open.add(lane)
            return lane.call(function, arguments, self.limit_s)
        except (WorkerLostError, TimeoutError):
            if lane is not None:
                self._open.discard(lane)
                lane.close()
            lane = None
            raise
        finally:
            self._lanes.put(lane)
