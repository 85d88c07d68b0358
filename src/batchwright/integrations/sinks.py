"""Where the reports of an integration go: any callable takes them; these write TensorBoard and Weights & Biases."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from batchwright.core.errors import InputError
from batchwright.integrations.extras import require
from batchwright.integrations.step_report import StepReport
from batchwright.measure.curvature.sinks import ScalarWriter


@runtime_checkable
class StepSink(Protocol):
    """Takes each report as it is made."""

    def __call__(self, report: StepReport, /) -> None:
        """Keep or show one report."""
        ...


class TensorBoardStepSink:
    """Adds each number of a report to a curve of its own.

    Args:
        writer: ``torch.utils.tensorboard.SummaryWriter`` or anything with its ``add_scalar``, for which nothing is imported; or a
            folder, for which a ``SummaryWriter`` is made.
        prefix: Begins the names of the curves.

    Raises:
        MissingExtraError: If a folder is given and TensorBoard is not installed.
    """

    def __init__(self, writer: ScalarWriter | str | Path, prefix: str = "batchwright/") -> None:
        self.writer: Any = writer
        if isinstance(writer, str | Path):
            self.writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(writer))
        self._prefix = prefix

    def __call__(self, report: StepReport, /) -> None:
        """Add a point to each curve that has one."""
        for name, value in report.scalars().items():
            self.writer.add_scalar(f"{self._prefix}{name}", value, report.step)


class WandbSink:
    """Logs each number of a report to a Weights & Biases run, online or offline as the run is.

    Args:
        run: From ``wandb.init``; the run that is active where left out.
        prefix: Begins the names of the metrics.
        step_metric: The reports' own count of optimizer steps, which the metrics are drawn over, so that they never disturb the step
            count of whoever else logs to the run.

    Raises:
        MissingExtraError: If no run is given and ``wandb`` is not installed.
        InputError: If there is no run.
    """

    def __init__(self, run: Any = None, prefix: str = "batchwright/", step_metric: str = "batchwright/step") -> None:
        if run is None:
            run = require("wandb", "wandb").run
        if run is None:
            raise InputError("run must be a run of wandb, got None and none is active; call wandb.init() first")
        self._run, self._prefix, self._step_metric = run, prefix, step_metric
        run.define_metric(step_metric)
        run.define_metric(f"{prefix}*", step_metric=step_metric)

    def __call__(self, report: StepReport, /) -> None:
        """Log the numbers that there are."""
        values = {f"{self._prefix}{name}": value for name, value in report.scalars().items()}
        self._run.log({**values, self._step_metric: report.step})
