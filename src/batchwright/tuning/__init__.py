"""Tuning in few parallel rounds: a batched bandit's trials on local processes or a Ray cluster, written down so that nothing is lost.

`batchwright.tune` is the way in. What needs Ray or Optuna is imported when it is first asked for; a missing library is an error that
names the extra to install.
"""

from importlib import import_module
from typing import Any

from batchwright.core.errors import MissingExtraError
from batchwright.tuning.journal import Written, holds_search
from batchwright.tuning.lanes import Lane, LaneExecutor, WorkerLostError
from batchwright.tuning.local import local_executor
from batchwright.tuning.objective import FunctionObjective, TaskObjective, task_objective
from batchwright.tuning.outcome import Metric, Outcome, TuningTrial
from batchwright.tuning.result import Optimum, Tuning
from batchwright.tuning.search import tune
from batchwright.tuning.settings import TuneSettings, plan_of, radius_of

_PLACES = {
    "BPESampler": "batchwright.tuning.optuna_sampler",
    "BPESearcher": "batchwright.tuning.ray_searcher",
    "export_to_optuna": "batchwright.tuning.optuna_export",
    "ray_executor": "batchwright.tuning.ray_engine",
}

__all__ = [
    "FunctionObjective",
    "Lane",
    "LaneExecutor",
    "Metric",
    "Optimum",
    "Outcome",
    "TaskObjective",
    "TuneSettings",
    "Tuning",
    "TuningTrial",
    "WorkerLostError",
    "Written",
    "holds_search",
    "local_executor",
    "plan_of",
    "radius_of",
    "task_objective",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'batchwright.tuning' has no attribute {name!r}; it has {', '.join(__dir__())}")
    try:
        value = getattr(import_module(_PLACES[name]), name)
    except ImportError as error:
        library = "ray" if "ray" in _PLACES[name] else "optuna"
        raise MissingExtraError(
            f"{library} must be installed for {name}, got {type(error).__name__}: {error}; pip install 'batchwright[tune]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PLACES])
