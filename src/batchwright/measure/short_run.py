"""Short runs over the same examples at other settings, and by how much one of them ended above another."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.preserve import RandomState
from batchwright.core.statistics import Array, Interval, mean_interval
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import train_steps
from batchwright.optim.build import build_optimizer
from batchwright.tasks.task import OptimizerSpec, Task

# The end of a run is its last third: the loss of a single step is mostly noise.
END = 1 / 3
# Blocks of examples that two runs are compared over, at most.
NUM_BLOCKS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ShortRun:
    """One run.

    Attributes:
        batch_size: Examples in a step.
        lr: Learning rate.
        losses: Mean loss of each step; it ends early at one that is not finite.
        step_times: Seconds of each step.
        num_examples: Examples trained on.
    """

    batch_size: int
    lr: float
    losses: tuple[float, ...]
    step_times: tuple[float, ...]
    num_examples: int

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(self.step_times)

    @property
    def finite(self) -> bool:
        """Whether all losses were finite."""
        return math.isfinite(self.losses[-1])

    @property
    def end_loss(self) -> float:
        """Mean loss of the last third of the examples; ``inf`` for a run that blew up."""
        return float(self.end_losses().mean()) if self.finite else math.inf

    def prefix(self, num_examples: int) -> "ShortRun":
        """The same run for a smaller budget: at a constant learning rate it is the beginning of this one."""
        count = min(len(self.losses), max(1, num_examples // self.batch_size))
        return replace(
            self, losses=self.losses[:count], step_times=self.step_times[:count], num_examples=count * self.batch_size
        )

    def end_losses(self) -> Array:
        """The loss at each of the last third of the examples: that of the step which saw it."""
        each: Array = np.repeat(np.array(self.losses, dtype=np.float64), self.batch_size)
        return each[-max(1, round(END * len(each))) :]


def short_run(
    task: Task,
    spec: OptimizerSpec,
    *,
    batch_size: int,
    num_examples: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    timer: Callable[[], float] = time.perf_counter,
) -> ShortRun:
    """Train a fresh model on the first ``num_examples`` of the order that belongs to ``seed``: the same ones at every setting.

    Args:
        task: The training job.
        spec: The optimizer, at the learning rate to be tried.
        batch_size: Examples in a step.
        num_examples: Whole steps of them are made, at least one.
        seed: Of the model and of the order of the data.
        device: Where to train.
        timer: Seconds.
    """
    check_int("batch_size", batch_size, at_least=1)
    losses: list[float] = []
    times: list[float] = []
    random_state = RandomState.capture()
    try:
        torch.manual_seed(seed)
        model = task.make_model(seed, device)
        optimizer = build_optimizer(spec, model)
        sampler = EpochSampler(task.num_train, seed)
        start = timer()

        def after_step(_: int, mean: Tensor) -> None:
            nonlocal start
            losses.append(float(mean))  # waits for the device, so the time is that of a whole step
            now = timer()
            times.append(now - start)
            start = now

        for _ in range(max(1, num_examples // batch_size)):
            train_steps(task, model, optimizer, sampler, batch_size=batch_size, num_steps=1, after_step=after_step)
            if not math.isfinite(losses[-1]):
                break
    finally:
        random_state.restore()
    return ShortRun(
        batch_size=batch_size,
        lr=spec.lr,
        losses=tuple(losses),
        step_times=tuple(times),
        num_examples=len(losses) * batch_size,
    )


def excess_loss(run: ShortRun, other: ShortRun) -> Interval:
    """By how much ``run`` ended above ``other``, which saw the same examples in the same order.

    The difference of their losses over the last third of the examples, with a Student interval over blocks of neighbouring
    examples; a block holds whole steps of the larger batch. It holds the scatter of the examples and of the way of both runs, not
    that over seeds. Where fewer than two blocks are left it is unbounded; ``inf`` where ``run`` alone blew up.
    """
    if not run.finite or not other.finite:
        value = (math.inf if not run.finite else 0.0) - (math.inf if not other.finite else 0.0)
        if math.isnan(value):
            return Interval(value=0.0, low=-math.inf, high=math.inf)
        return Interval(value=value, low=value, high=value)
    one, two = run.end_losses(), other.end_losses()
    length = min(len(one), len(two))
    difference = one[-length:] - two[-length:]
    return mean_interval(block_means(difference, max(run.batch_size, other.batch_size)))


def block_means(values: Sequence[float] | Array, least: int) -> Array:
    """Means over at most twelve blocks of neighbours, each of a multiple of ``least`` values, from the end; one block at least."""
    data = np.asarray(values, dtype=np.float64)
    size = max(1, len(data) // NUM_BLOCKS // least) * least
    count = min(len(data) // size, NUM_BLOCKS)
    if count == 0:
        return np.array([data.mean()])
    return np.asarray(data[len(data) - count * size :].reshape(count, size).mean(1))
