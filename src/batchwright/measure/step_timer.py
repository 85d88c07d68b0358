"""Timed optimizer steps of a fresh model: the fetch and the rest, by the clock on the wall and by the processor time of the thread.

On a CPU the processor time of the training thread gives the shape of a curve, and the wall time its height: other work on the
machine stretches a long step and not a short one, which would bend the curve; on average it stretches all alike.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from batchwright.core.batches import Batch, to_device
from batchwright.core.objectives import accumulate_gradient
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.optim.build import build_optimizer
from batchwright.tasks.task import Task

# A fetch that keeps the processor busy for this part of its time waits for nothing.
BUSY = 0.8
# Making the model and the very first step count for at most this many plain steps; what is more is the process setting itself up.
SET_UP = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedStep:
    """Seconds of one step.

    Attributes:
        load_s: Fetching the batch, by the clock on the wall.
        update_s: Forward, backward and update, by the clock on the wall.
        busy_load_s: Processor time of the thread while it fetched.
        busy_update_s: Processor time of the thread after that.
    """

    load_s: float
    update_s: float
    busy_load_s: float
    busy_update_s: float

    @property
    def wall_s(self) -> float:
        """Seconds of the whole step by the clock on the wall."""
        return self.load_s + self.update_s


class StepTimer:
    """Steps of a fresh model at a learning rate of zero, so that it neither moves nor diverges at any batch size.

    Args:
        task: The training job.
        micro_batch_size: Most examples in one forward pass; larger batches are accumulated.
        device: Where to train.
        seed: Of the model and the data order.
        timer: Seconds; another one than `time.perf_counter` is believed on a CPU too, instead of the processor time.

    Attributes:
        num_steps: Steps done.
        num_examples: Examples that went through them.
    """

    def __init__(
        self, task: Task, micro_batch_size: int | None, device: torch.device, seed: int, timer: Callable[[], float]
    ) -> None:
        self.task, self.micro_batch_size, self.device, self.timer = task, micro_batch_size, device, timer
        # A GPU works while this thread waits, and a given timer is meant to be read.
        self.busy_timer = time.thread_time if device.type == "cpu" and timer is time.perf_counter else timer
        self.num_steps = self.num_examples = self._num_busy_fetches = 0
        start = self._clocks()
        torch.manual_seed(seed)
        self.model = task.make_model(seed, device)
        self.optimizer = build_optimizer(task.optimizer, self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.sampler = EpochSampler(task.num_train, seed)
        self.step(task.batch_size)
        self._start = self._clocks()
        self._set_up_s = tuple(after - before for before, after in zip(start, self._start, strict=True))

    def step(self, size: int) -> TimedStep:
        """Fetch ``size`` examples, train on them, and take the time."""
        self._synchronize()
        before, busy_before = self._clocks()
        batch = self.load(size)
        self._synchronize()
        loaded, busy_loaded = self._clocks()
        self.update(batch)
        self._synchronize()
        after, busy_after = self._clocks()
        self.num_steps += 1
        self.num_examples += size
        step = TimedStep(
            load_s=loaded - before,
            update_s=after - loaded,
            busy_load_s=busy_loaded - busy_before,
            busy_update_s=busy_after - busy_loaded,
        )
        self._num_busy_fetches += step.busy_load_s >= BUSY * step.load_s
        return step

    def load(self, size: int) -> Batch:
        """The next ``size`` examples, on the device."""
        return to_device(fetch(self.task.train, self.sampler.take(size)), self.device)

    def update(self, batch: Batch) -> None:
        """One optimizer step on a batch."""
        self.optimizer.zero_grad(set_to_none=True)
        accumulate_gradient(self.model, self.task.loss, batch, micro_batch_size=self.micro_batch_size)
        self.optimizer.step()

    def busy_s(self, step: TimedStep) -> float:
        """Seconds of a step without those in which other work had the processor; at least what a coarse timer can tell."""
        return max(self.busy_load_s(step) + step.busy_update_s, 1e-9)

    def busy_load_s(self, step: TimedStep) -> float:
        """Seconds of a fetch without those in which other work had the processor."""
        # A fetch may also wait for a disk or for workers, which is its own time.
        return step.busy_load_s if 2 * self._num_busy_fetches >= self.num_steps else step.load_s

    def stretch(self, steps: Iterable[TimedStep]) -> float:
        """How much longer steps took on the wall than their threads worked, on average."""
        steps = list(steps)
        return max(1.0, sum(step.wall_s for step in steps) / sum(self.busy_s(step) for step in steps))

    def seconds(self, plain_step_s: float, *, busy: bool = False) -> float:
        """Time of this measurement so far, by the clock on the wall or without the time that other work had the processor.

        Of making the model and the very first step at most ten plain steps count: a process imports and compiles with them.
        """
        since = self._clocks()[busy] - self._start[busy]
        return since + min(self._set_up_s[busy], SET_UP * plain_step_s)

    def _clocks(self) -> tuple[float, float]:
        return self.timer(), self.busy_timer()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
