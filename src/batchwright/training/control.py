"""Between two steps of a run: the controller's batch size, the learning rate that goes with it, and the gauge that is asked first.

Every rank asks a controller of its own; all that controllers look at is the same on all ranks to the last bit, and so are decisions.
"""

import math

import torch

from batchwright.adapt import Measured
from batchwright.adapt.controller import GAUGE
from batchwright.core.records import RecordWriter
from batchwright.core.serialization import to_plain
from batchwright.core.statistics import Interval
from batchwright.planning.optimizer_settings import OptimizerSettings, read_group
from batchwright.tasks.task import Task
from batchwright.training.follow import Follower
from batchwright.training.group import Group
from batchwright.training.recording import next_record
from batchwright.training.settings import TrainSettings
from batchwright.training.state import LoopState
from batchwright.training.step_measures import Readings
from batchwright.training.step_noise import NOISE
from batchwright.training.watch import Watch

# What may follow the batch size beside the learning rate; in the record of a decision that moved it.
FOLLOWING = ("momentum", "beta2", "weight_decay")


class Control:
    """Asks the controller after each step, and puts its decision into the run's state, optimizer and records."""

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        optimizer: torch.optim.Optimizer,
        records: RecordWriter,
        watch: Watch,
        group: Group,
    ) -> None:
        self.controller = settings.controller()
        self.needs_noise = bool(self.controller.needs & NOISE)
        self.needs_loss = "loss" in self.controller.needs
        self.needs_stability = bool(self.controller.needs & GAUGE)
        self._task, self._settings, self._optimizer = task, settings, optimizer
        self._records, self._watch, self._group = records, watch, group
        self.follower = Follower(optimizer, base_batch_size=settings.batch_size, name=settings.optimizer.name)

    def after_step(self, state: LoopState, readings: Readings, *, epoch: int) -> None:
        """Take in what a step told, and change batch size and settings where the controller decides so.

        Args:
            state: Counts the step already.
            readings: Of the step.
            epoch: Epochs that are over.
        """
        noise, examples = readings.parts.noise, readings.examples
        if noise is not None:
            state.noise = state.noise.update(noise)
        interval = state.noise.interval() if self.needs_noise else None
        if noise is not None and interval is not None and state.step >= state.next_noise_record:
            self._record_noise(state, interval)
        length = self._task.sequence_length
        measured = Measured(
            step=state.step,
            num_examples=state.num_examples,
            batch_size=state.batch_size,
            num_tokens=None if length is None else state.num_examples * length,
            sequence_length=length,
            epoch=epoch,
            num_train=self._task.num_train,
            lr=self._optimizer.param_groups[0]["lr"],
            loss=state.last_loss if self.needs_loss else None,
            noise_scale=interval,
            # Beside the variance of inner products they are of the same gradients; else running averages.
            trace=examples.trace if examples else state.noise.trace if interval is not None else None,
            grad_sq_norm=examples.grad_sq_norm
            if examples
            else state.noise.grad_sq_norm
            if interval is not None
            else None,
            inner_product_variance=examples.inner_product_variance if examples else None,
            cosine=readings.parts.cosine,
            diversity=readings.diversity,
            **self._stability(state),
        )
        state.controller, decision = self.controller.update(state.controller, measured)
        batch_size = min(decision.batch_size, self._task.num_train)
        before = self._settings_now()
        noise_scale = interval.value if interval is not None and interval.value > 0 else math.inf
        warning = None
        if batch_size != state.batch_size:
            lr = self.follower.lr_at(batch_size, noise_scale=noise_scale)
            if decision.lr_factor is not None:
                lr = self._settings.optimizer.lr * decision.lr_factor
            # Asked before anything changes: the gauge compares with what the optimizer holds now.
            warning = self._watch.warning_before(state, batch_size=batch_size, lr=lr)
        if decision.lr_factor is not None:
            self.follower.set_lr_factor(decision.lr_factor)
        elif batch_size != state.batch_size:
            self.follower.change_batch_size(batch_size, noise_scale=noise_scale)
        if batch_size == state.batch_size:
            return
        after = self._settings_now()
        moved = {name: getattr(after, name) for name in FOLLOWING if getattr(after, name) != getattr(before, name)}
        self._records.write(
            "decision",
            step=state.step,
            num_examples=state.num_examples,
            previous=state.batch_size,
            batch_size=batch_size,
            lr=after.lr,
            reason=decision.reason,
            warning=warning,
            **moved,
        )
        state.batch_size = batch_size

    def _stability(self, state: LoopState) -> dict[str, float | None]:
        if not self.needs_stability:
            return {}
        lr = float(self._optimizer.param_groups[0]["lr"])
        found: dict[str, float | None] = self._watch.readings_at(batch_size=state.batch_size, lr=lr)
        if self._group.world_size > 1:  # the first rank alone has the gauge
            known = self._group.same([[name, to_plain(value)] for name, value in found.items()])
            found = {name: None if value is None else float(value) for name, value in known}
        return found

    def _settings_now(self) -> OptimizerSettings:
        return read_group(self._optimizer.param_groups[0])

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
