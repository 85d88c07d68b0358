"""A short pilot run: trains at the task's defaults and measures the noise scale along its late half.

The noise scale at initialisation says little, since it grows as the gradient falls: what a plan needs is its size where
training spends its steps.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from batchwright.core.batches import Batch, to_device
from batchwright.core.checks import check_int
from batchwright.core.errors import NonFiniteLossError
from batchwright.core.preserve import RandomState
from batchwright.core.statistics import Interval
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.noise import NoiseScale, average_over_points, noise_scale
from batchwright.measure.snapshot import Snapshot, train_steps
from batchwright.optim.build import build_optimizer
from batchwright.tasks.task import Task

POINTS = (0.5, 0.75, 1.0)
# An interval whose ends differ by more than this factor is worth more measuring while the budget lasts.
WIDE = 2.5


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What the pilot saw.

    Attributes:
        points: Optimizer step and noise scale of each measurement, in order.
        noise_scale: Average over the points, as `measure.noise.average_over_points` defines it.
        losses: Mean training loss of each step.
        snapshot: State at the end of the pilot, for branches.
        plain_step_s: Mean seconds of one of its steps, the first ones left out: the unit of all costs.
        train_s: Seconds of training.
        measure_s: Seconds of measuring.
        num_examples: Examples trained on and measured.
        more_batches: Batches that would likely resolve the gradient; 0 when it is resolved.
    """

    points: tuple[tuple[int, NoiseScale], ...]
    noise_scale: Interval
    losses: tuple[float, ...]
    snapshot: Snapshot
    plain_step_s: float
    train_s: float
    measure_s: float
    num_examples: int
    more_batches: int


def pilot(
    task: Task,
    *,
    num_steps: int = 100,
    batches_a_point: int = 25,
    max_extra_batches: int = 50,
    measured_batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    timer: Callable[[], float] = time.perf_counter,
) -> Pilot:
    """Train for ``num_steps`` at the task's defaults and measure the noise scale at half, three quarters and the end.

    Args:
        task: The training job.
        num_steps: Optimizer steps.
        batches_a_point: Batches measured at each point.
        measured_batch_size: Examples in a batch of a measurement, drawn with replacement so that the estimates are unbiased for the
            training set; the default size where left out. A larger one resolves more for the same number of batches.
        max_extra_batches: Further batches, measured at the end where the average is not resolved or wide.
        seed: Of the model and of the order of the data.
        device: Where to train.
        timer: Seconds.

    Raises:
        NonFiniteLossError: If a training loss is not finite.
    """
    check_int("num_steps", num_steps, at_least=len(POINTS))
    random_state = RandomState.capture()
    try:
        size = measured_batch_size or task.batch_size
        return _Pilot(task, size, seed, torch.device(device), timer).run(num_steps, batches_a_point, max_extra_batches)
    finally:
        random_state.restore()


class _Pilot:
    def __init__(
        self, task: Task, measured_batch_size: int, seed: int, device: torch.device, timer: Callable[[], float]
    ) -> None:
        torch.manual_seed(seed)
        self.task, self.device, self.timer = task, device, timer
        self.measured_batch_size = measured_batch_size
        self.model = task.make_model(seed, device)
        self.optimizer = build_optimizer(task.optimizer, self.model)
        self.sampler = EpochSampler(task.num_train, seed)
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.losses: list[float] = []
        self.step_times: list[float] = []
        self.points: list[tuple[int, NoiseScale]] = []
        self.measure_s = 0.0
        self.num_measured = 0

    def run(self, num_steps: int, batches_a_point: int, max_extra_batches: int) -> Pilot:
        for end in (max(1, round(fraction * num_steps)) for fraction in POINTS):
            self._train(end - len(self.losses))
            self._measure(batches_a_point)
        average = self._average()
        while max_extra_batches > 0 and average.high > WIDE * average.low:
            extra = min(batches_a_point, max_extra_batches)
            self._measure(max(extra, 3))
            max_extra_batches -= extra
            average = self._average()
        return Pilot(
            points=tuple(self.points),
            noise_scale=average,
            losses=tuple(self.losses),
            snapshot=Snapshot.take(
                self.model,
                self.optimizer,
                num_steps=num_steps,
                num_examples=num_steps * self.task.batch_size,
            ),
            # The mean, not the median: other work on the machine slows the measurements just as it slows these steps.
            plain_step_s=float(np.mean(self.step_times[min(5, len(self.step_times) // 2) :])),
            train_s=sum(self.step_times),
            measure_s=self.measure_s,
            num_examples=num_steps * self.task.batch_size + self.num_measured,
            more_batches=0 if math.isfinite(average.high) else self._more_batches(),
        )

    def _train(self, num_steps: int) -> None:
        start = self.timer()

        def after_step(_: int, mean: Tensor) -> None:
            nonlocal start
            loss = float(mean)  # waits for the device, so the time is that of a whole step
            now = self.timer()
            self.step_times.append(now - start)
            start = now
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"loss must stay finite, got {loss} at step {len(self.losses) + 1} of the pilot with the task's default "
                    f"lr {self.task.optimizer.lr:g}; lower the lr or mend the loss"
                )
            self.losses.append(loss)

        train_steps(
            self.task,
            self.model,
            self.optimizer,
            self.sampler,
            batch_size=self.task.batch_size,
            num_steps=num_steps,
            after_step=after_step,
        )

    def _measure(self, num_batches: int) -> None:
        start = self.timer()
        found = noise_scale(self.model, self.task.loss, self._batches(num_batches), num_micro_batches=1)
        self.measure_s += self.timer() - start
        self.num_measured += found.num_examples
        self.points.append((len(self.losses), found))

    def _batches(self, num_batches: int) -> Iterator[Batch]:
        for _ in range(num_batches):
            indices = torch.randint(self.task.num_train, (self.measured_batch_size,), generator=self.generator)
            yield to_device(fetch(self.task.train, indices), self.device)

    def _average(self) -> Interval:
        return average_over_points([point for _, point in self.points])

    def _more_batches(self) -> int:
        # The points share the work: each saw a part of the batches, and the average needs them all to say more.
        return max(1, max(point.more_batches for _, point in self.points))
