"""The stability gauge beside the loop: its readings in the records, its warning before a change, and its end if it cannot measure."""

import math
import warnings
from typing import Any

import torch
from torch import nn

from batchwright.core.batches import Batch, to_device
from batchwright.core.errors import InputError, StabilityWarning
from batchwright.core.records import RecordWriter
from batchwright.data.access import fetch
from batchwright.measure.curvature import RecordSink, StabilityMonitor
from batchwright.tasks.task import Task
from batchwright.training.ranks import Ranks
from batchwright.training.settings import TrainSettings
from batchwright.training.state import LoopState


class Watch:
    """A monitor of a run; nothing at all where the settings ask for none, and on all ranks but the first.

    Where a model cannot be measured, because an operation has no second derivative or the memory is too small for one, the run goes
    on without readings and a note says so.

    Attributes:
        notes: What a reader of the run should know.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        records: RecordWriter,
        ranks: Ranks,
    ) -> None:
        if settings.stability_every is not None and ranks.sharded:
            raise InputError(
                "the stability gauge must have the whole model on one rank, got one that is sharded; take --distributed ddp, or train "
                "without --stability and stability-aware"
            )
        self.notes: list[str] = []
        self._task, self._device = task, next(model.parameters()).device
        self._monitor: StabilityMonitor | None = None
        self._ended = ""
        if settings.stability_every is not None and ranks.rank == 0:
            self._monitor = StabilityMonitor(
                model,
                task.loss,
                optimizer,
                draw_batch=self._draw,
                every=settings.stability_every,
                budget=settings.stability_budget,
                num_train=task.num_train,
                sinks=[RecordSink(records)],
                seed=settings.seed,
            )

    def after_step(self, state: LoopState, seconds: float) -> None:
        """Count a step of these seconds, and measure if it is time."""
        if self._monitor is None:
            return
        try:
            self._monitor.after_step(batch_size=state.batch_size, training_s=seconds)
        except RuntimeError as error:  # also out of memory, and NotImplementedError
            reason = " ".join(str(error).split())[:200]
            self._end(f"no stability readings from step {state.step} on: {type(error).__name__}: {reason}")

    def warning_before(self, state: LoopState, *, batch_size: int, lr: float) -> str:
        """What the gauge says against a change of batch size and learning rate; empty where it says nothing."""
        if self._monitor is None:
            return ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", StabilityWarning)
            self._monitor.check(batch_size=batch_size, lr=lr)
        found = next((str(each.message) for each in caught if each.category is StabilityWarning), "")
        if found:
            self.notes.append(f"before step {state.step + 1}: {found}")
        return found

    def readings_at(self, *, batch_size: int, lr: float) -> dict[str, float | None]:
        """The last reading by the names of `adapt.Measured`; empty where it was not made at this batch size and learning rate.

        The curvature of the whole loss does not depend on them, so it is the last that was measured at all.
        """
        last = self._monitor.last if self._monitor is not None else None
        if self._monitor is None or last is None or last.form != "gradient":
            return {}
        # A reading of one batch has no error, so nothing can be built on it.
        if (last.batch_size, last.lr) != (batch_size, lr) or not math.isfinite(last.standard_error):
            return {}
        means = [each.mean_curvature for each in self._monitor.history if _known(each.mean_curvature)]
        largest = [each.sharpness for each in self._monitor.history if _known(each.sharpness)]
        found = {
            "batch_sharpness": last.batch_sharpness,
            "batch_sharpness_error": last.standard_error,
            "mean_curvature": means[-1] if means else None,
            "lambda_max": largest[-1] if largest else None,
            "stability_low": last.low,
            "stability_high": last.high,
        }
        return {name: value for name, value in found.items() if _known(value)}

    def state_dict(self) -> dict[str, Any] | None:
        """For a checkpoint; None without a monitor."""
        if self._ended:
            return {"ended": self._ended}
        return None if self._monitor is None else self._monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from `state_dict`."""
        if state is not None and "ended" in state:
            self._end(state["ended"])
        elif state is not None and self._monitor is not None:
            self._monitor.load_state_dict(state)

    def _end(self, reason: str) -> None:
        self._monitor, self._ended = None, reason
        self.notes.append(reason)

    def _draw(self, generator: torch.Generator, batch_size: int) -> Batch:
        indices = torch.randperm(self._task.num_train, generator=generator)[:batch_size]
        return to_device(fetch(self._task.train, indices), self._device)


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
