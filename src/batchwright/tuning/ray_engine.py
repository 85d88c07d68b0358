"""Workers as Ray actors, of a local cluster or an existing one; each runs trial after trial, since a process costs a second."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError, WorkerCrashedError

from batchwright.tuning.lanes import Lane, LaneExecutor, WorkerLostError


class _Worker:
    """What runs on the cluster."""

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """The result of a function."""
        return function(*arguments)

    def process(self) -> int:
        """Its number, for whoever wants to look at it, or to kill it in a test; what a trial needs is loaded on the way."""
        import os

        import batchwright.tuning.job  # noqa: F401

        return os.getpid()


class RayLane(Lane):
    """An actor that answers calls one after another.

    Args:
        gpu: Whether it has a GPU of its own.
    """

    def __init__(self, *, gpu: bool = False) -> None:
        kind = ray.remote(_Worker)
        self.actor = kind.options(num_cpus=1, num_gpus=1 if gpu else 0, max_restarts=0).remote()
        self._ready = False

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], limit_s: float | None) -> Any:
        """The result of the function in the actor."""
        try:
            if not self._ready:  # starting an actor is no trial's time
                ray.get(self.actor.process.remote())
                self._ready = True
            return ray.get(self.actor.call.remote(function, arguments), timeout=limit_s)
        except GetTimeoutError as error:
            raise TimeoutError(f"the trial took longer than {limit_s:g} s, and its worker was killed") from error
        except (RayActorError, WorkerCrashedError) as error:
            raise WorkerLostError(f"its Ray actor died: {' '.join(str(error).split())[:200]}") from error
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None

    def close(self) -> None:
        """Kill the actor."""
        if ray.is_initialized():
            ray.kill(self.actor)


class _RayExecutor(LaneExecutor):
    """Ends the cluster that it has started."""

    started = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        if self.started and ray.is_initialized():
            ray.shutdown()


def ray_executor(
    workers: int, *, address: str | None = None, limit_s: float | None = None, gpu: bool = False
) -> LaneExecutor:
    """An executor of actors.

    A Ray that is initialised already is used and left as it is; otherwise one is started here, with as many slots as workers, and ended
    with the executor.

    Args:
        workers: Actors.
        address: Of a cluster, ``auto`` for the one of the environment; a local one is started where left out.
        limit_s: Seconds of a call after which its actor is killed.
        gpu: Whether each actor has a GPU of its own.
    """
    executor = _RayExecutor(lambda: RayLane(gpu=gpu), workers, limit_s=limit_s)
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            # A local cluster: more slots than processors would only wait for each other, but Ray would not start the actors.
            options |= {"num_cpus": workers, "include_dashboard": False}
        else:
            options["address"] = address
        ray.init(**options)
        executor.started = True
    return executor
