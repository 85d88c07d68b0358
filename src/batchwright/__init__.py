"""The batch-size engine for PyTorch: measure a training job, decide its batch size, adapt it, and show the evidence.

Names are imported when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchwright import adapt, bandits, capacity, gan, integrations, measure, nn, optim, planning, rl, tuning
    from batchwright.planning.budget import Budget
    from batchwright.planning.plan import Plan
    from batchwright.planning.planner import plan
    from batchwright.planning.token_budget import TokenBudget
    from batchwright.planning.token_plan import TokenPlan
    from batchwright.tasks.task import OptimizerSpec, Target, Task
    from batchwright.training.engine import BatchEngine
    from batchwright.training.loop import train
    from batchwright.training.run import Run
    from batchwright.training.verify import Verification, verify
    from batchwright.tuning.search import tune

_PLACES = {
    "BatchEngine": "batchwright.training.engine",
    "Budget": "batchwright.planning.budget",
    "OptimizerSpec": "batchwright.tasks.task",
    "Plan": "batchwright.planning.plan",
    "Run": "batchwright.training.run",
    "Target": "batchwright.tasks.task",
    "Task": "batchwright.tasks.task",
    "TokenBudget": "batchwright.planning.token_budget",
    "TokenPlan": "batchwright.planning.token_plan",
    "Verification": "batchwright.training.verify",
    "plan": "batchwright.planning.planner",
    "train": "batchwright.training.loop",
    "tune": "batchwright.tuning.search",
    "verify": "batchwright.training.verify",
}
_ROOMS = ("adapt", "bandits", "capacity", "gan", "integrations", "measure", "nn", "optim", "planning", "rl", "tuning")

__all__ = [
    "BatchEngine",
    "Budget",
    "OptimizerSpec",
    "Plan",
    "Run",
    "Target",
    "Task",
    "TokenBudget",
    "TokenPlan",
    "Verification",
    "adapt",
    "bandits",
    "capacity",
    "gan",
    "integrations",
    "measure",
    "nn",
    "optim",
    "plan",
    "planning",
    "rl",
    "train",
    "tune",
    "tuning",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(import_module(_PLACES[name]), name)
    elif name in _ROOMS:
        value = import_module(f"batchwright.{name}")
    elif name == "__version__":  # reading the metadata takes longer than the rest of this import
        from importlib.metadata import version

        value = version("batchwright")
    else:
        raise AttributeError(f"module 'batchwright' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
