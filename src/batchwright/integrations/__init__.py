"""Batch sizes that change inside other people's training loops: Lightning, transformers, Accelerate, and where the numbers are logged.

Each callback is imported with its library when it is first asked for; a missing library is an error that names the extra to install.
"""

from importlib import import_module
from typing import Any

from batchwright.integrations.accumulation import Accumulation
from batchwright.integrations.options import Options
from batchwright.integrations.sinks import StepSink, TensorBoardStepSink, WandbSink
from batchwright.integrations.step_report import StepReport

_PLACES = {
    "AccelerateBatchSize": "batchwright.integrations.accelerate",
    "BatchSizeCallback": "batchwright.integrations.lightning",
    "BatchSizeTrainerCallback": "batchwright.integrations.transformers",
}

__all__ = [
    "Accumulation",
    "Options",
    "StepReport",
    "StepSink",
    "TensorBoardStepSink",
    "WandbSink",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(
            f"module 'batchwright.integrations' has no attribute {name!r}; it has {', '.join(__dir__())}"
        )
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PLACES])
