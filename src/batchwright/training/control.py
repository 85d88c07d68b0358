"""Between two steps of a run: the controller's batch size, the learning rate that goes with it, and the gauge that is asked first."""

import math

import torch

from batchwright.adapt import Measured
from batchwright.core.records import RecordWriter
from batchwright.core.statistics import Interval
from batchwright.planning.laws import scale_lr
from batchwright.tasks.task import Task
from batchwright.training.recording import next_record
from batchwright.training.settings import TrainSettings
from batchwright.training.state import LoopState
from batchwright.training.watch import Watch


class Control:
    """Asks the controller after each step, and puts its decision into the run's state, optimizer and records."""

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        optimizer: torch.optim.Optimizer,
        records: RecordWriter,
        watch: Watch,
    ) -> None:
        self.controller = settings.controller()
        self._task, self._settings, self._optimizer = task, settings, optimizer
        self._records, self._watch = records, watch

    @property
    def needs_noise_scale(self) -> bool:
        """Whether the loop must gather gradient noise."""
        return self.controller.needs_noise_scale

    def after_step(self, state: LoopState, *, measured_noise: bool) -> None:
        """Record the noise scale where it was measured, and change the batch size where the controller decides so."""
        interval = state.noise.interval() if self.needs_noise_scale else None
        if measured_noise and interval is not None and state.step >= state.next_noise_record:
            self._record_noise(state, interval)
        measured = Measured(
            step=state.step, num_examples=state.num_examples, batch_size=state.batch_size, noise_scale=interval
        )
        state.controller, decision = self.controller.update(state.controller, measured)
        batch_size = min(decision.batch_size, self._task.num_train)
        if batch_size == state.batch_size:
            return
        lr = scale_lr(
            self._settings.optimizer.name,
            self._settings.optimizer.lr,
            base_batch_size=self._settings.batch_size,
            batch_size=batch_size,
            critical_batch_size=interval.value if interval is not None else math.inf,
        )
        warning = self._watch.warning_before(state, batch_size=batch_size, lr=lr)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._records.write(
            "decision",
            step=state.step,
            num_examples=state.num_examples,
            previous=state.batch_size,
            batch_size=batch_size,
            lr=lr,
            reason=decision.reason,
            warning=warning,
        )
        state.batch_size = batch_size

    def _record_noise(self, state: LoopState, interval: Interval) -> None:
        state.next_noise_record = next_record(state.step)
        self._records.write(
            "noise",
            step=state.step,
            num_examples=state.num_examples,
            noise_scale=interval,
            trace=state.noise.trace,
            grad_sq_norm=state.noise.grad_sq_norm,
        )
