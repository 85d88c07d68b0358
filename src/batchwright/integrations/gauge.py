"""The stability gauge inside a framework's loop: it reads the settings that are in force, and a policy may look at what it reads."""

import warnings
from typing import Any

from batchwright.core.batches import Batch
from batchwright.integrations.in_force import SettingsInForce
from batchwright.measure.curvature import StabilityMonitor


class Gauge:
    """A monitor whose readings are made with the settings of the batch size in place.

    Where a model cannot be measured, because an operation has no second derivative or the memory is too small for one, a warning says
    so and training goes on without.
    """

    def __init__(self, monitor: StabilityMonitor, in_force: SettingsInForce) -> None:
        self._monitor: StabilityMonitor | None = monitor
        self._in_force = in_force

    def after_step(self, batch: Batch, batch_size: int) -> None:
        """Count a step of ``batch_size`` examples, of which ``batch`` are the last ones, and measure if it is time."""
        if self._monitor is None:
            return
        try:
            with self._in_force.applied():
                self._monitor.after_step(batch, batch_size=batch_size)
        except RuntimeError as error:  # also out of memory, and NotImplementedError
            self._monitor = None
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"no stability readings from here on: {type(error).__name__}: {reason}", stacklevel=2)

    def measured(self) -> dict[str, float | None]:
        """The fields of `Measured` from the last reading; none before it."""
        reading = None if self._monitor is None else self._monitor.last
        if reading is None or reading.form != "gradient":
            return {}
        return {
            "batch_sharpness": reading.batch_sharpness,
            "batch_sharpness_error": reading.standard_error,
            "mean_curvature": reading.mean_curvature,
            "lambda_max": reading.sharpness,
            "stability_low": reading.low,
            "stability_high": reading.high,
        }

    def state_dict(self) -> dict[str, Any] | None:
        """With tensors in it; None once it has ended."""
        return None if self._monitor is None else self._monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from `state_dict`."""
        if state is None:
            self._monitor = None
        elif self._monitor is not None:
            self._monitor.load_state_dict(state)
