"""Where trials run: processes of this machine, or actors of a Ray cluster."""

from concurrent.futures import Executor

import torch

from batchwright.core.checks import check_int
from batchwright.core.errors import MissingExtraError
from batchwright.core.host import num_usable_cpus
from batchwright.tuning.local import check_picklable, local_executor
from batchwright.tuning.objective import Objective
from batchwright.tuning.settings import TuneSettings

ENGINES = ("local", "ray")
# A worker that overruns a trial's time is given so much more before it is killed: it may be about to say so itself.
OVERTIME, OVERTIME_S = 1.2, 5.0


def make_executor(
    engine: str, objective: Objective, settings: TuneSettings, workers: int | None, address: str | None, device: str
) -> Executor:
    """The executor of an engine."""
    widest = max(settings.plan)
    limit = None if settings.timeout_s is None else OVERTIME * settings.timeout_s + OVERTIME_S
    number = check_int("workers", workers, at_least=1) if workers is not None else None
    if engine == "ray":
        try:
            from batchwright.tuning.ray_engine import ray_executor
        except ImportError as error:
            raise MissingExtraError(
                f"ray must be installed for --engine ray, got {error}; pip install 'batchwright[tune]'"
            ) from error
        return ray_executor(number or widest, address=address, limit_s=limit, gpu=torch_wants_gpu(device))
    check_picklable(objective, "objective")
    return local_executor(number or min(widest, num_usable_cpus()), limit_s=limit)


def torch_wants_gpu(device: str) -> bool:
    """Whether a trial needs a GPU of its own."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
