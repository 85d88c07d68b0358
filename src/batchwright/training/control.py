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
from batchwright.training.step_noise import NOISE
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
        self.needs_noise = bool(self.controller.needs & NOISE)
        self.needs_loss = "loss" in self.controller.needs
        self._task, self._settings, self._optimizer = task, settings, optimizer
        self._records, self._watch = records, watch

    def after_step(self, state: LoopState, *, measured_noise: bool) -> None:
        """Record the noise scale where it was measured, and change batch size and lr where the controller decides so."""
        interval = state.noise.interval() if self.needs_noise else None
        if measured_noise and interval is not None and state.step >= state.next_noise_record:
            self._record_noise(state, interval)
        measured = Measured(
            step=state.step,
            num_examples=state.num_examples,
            batch_size=state.batch_size,
            num_train=self._task.num_train,
            lr=self._optimizer.param_groups[0]["lr"],
            loss=state.last_loss if self.needs_loss else None,
            noise_scale=interval,
            trace=state.noise.trace if interval is not None else None,
            grad_sq_norm=state.noise.grad_sq_norm if interval is not None else None,
        )
        state.controller, decision = self.controller.update(state.controller, measured)
        batch_size = min(decision.batch_size, self._task.num_train)
        lr = self._optimizer.param_groups[0]["lr"]
        if decision.lr_factor is not None:
            lr = self._settings.optimizer.lr * decision.lr_factor
        elif batch_size != state.batch_size:
            lr = scale_lr(
                self._settings.optimizer.name,
                self._settings.optimizer.lr,
                base_batch_size=self._settings.batch_size,
                batch_size=batch_size,
                critical_batch_size=interval.value if interval is not None else math.inf,
            )
        warning = None
        if batch_size != state.batch_size:
            warning = self._watch.warning_before(state, batch_size=batch_size, lr=lr)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if batch_size == state.batch_size:
            return
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
