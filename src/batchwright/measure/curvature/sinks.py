"""Where readings of the stability gauge go: any callable takes them; these two write run records and TensorBoard."""

import math
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from batchwright.core.records import RecordWriter
from batchwright.measure.curvature.reading import StabilityReading

SCALARS = ("batch_sharpness", "mean_curvature", "sharpness", "low", "high", "threshold", "headroom", "share")


@runtime_checkable
class Sink(Protocol):
    """Takes each reading as it is made."""

    def __call__(self, reading: StabilityReading, /) -> None:
        """Keep or show one reading."""
        ...


@runtime_checkable
class ScalarWriter(Protocol):
    """What is used of TensorBoard's ``SummaryWriter``, and of those that are made like it."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> Any:
        """Add one point to a curve."""
        ...


class RecordSink:
    """Appends each reading to run records as a line of kind ``stability``."""

    def __init__(self, records: RecordWriter) -> None:
        self._records = records

    def __call__(self, reading: StabilityReading, /) -> None:
        """Write the reading."""
        self._records.write("stability", **asdict(reading))


class TensorBoardSink:
    """Adds each number of a reading to a curve of its own; nothing is imported for it, the writer is its user's.

    Args:
        writer: ``torch.utils.tensorboard.SummaryWriter`` or anything with its ``add_scalar``.
        prefix: Begins the names of the curves.
    """

    def __init__(self, writer: ScalarWriter, prefix: str = "stability/") -> None:
        self._writer, self._prefix = writer, prefix

    def __call__(self, reading: StabilityReading, /) -> None:
        """Add a point to each curve that has one."""
        for name in SCALARS:
            value = getattr(reading, name)
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(f"{self._prefix}{name}", float(value), reading.step)
