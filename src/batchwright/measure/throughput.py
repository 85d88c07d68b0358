"""How long an optimizer step takes at each batch size, measured in interleaved repeats within a budget of plain steps."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch

from batchwright.core.checks import check_int, check_number
from batchwright.core.environment import load_average, malloc_keeps_memory, num_usable_cpus
from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import train_steps
from batchwright.measure.step_time import StepTimeCurve, fit_step_time, robust_spread
from batchwright.tasks.task import Task

MIN_REPEATS, MAX_REPEATS = 3, 30
# A size is settled when the standard error of its median is below this part of it.
SETTLED = 0.01
# Repeats that scatter by more than this part of their median were disturbed.
NOISY = 0.1
# A timer must tell the shortest step to this part of it.
COARSE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput(StepTimeCurve):
    """Step time against batch size, what it says, and what it cost; `step_time_s` predicts.

    Attributes:
        num_steps: Optimizer steps done, warm-ups included.
        num_examples: Examples that went through them.
        plain_step_s: Median seconds of a step at the task's own batch size.
        cost_plain_steps: ``seconds / plain_step_s``.
        seconds: Wall time of the measurement, without the very first step, which also sets up the process.
        warnings: What distorts the timings, one sentence each.
    """

    num_steps: int
    num_examples: int
    plain_step_s: float
    cost_plain_steps: float
    seconds: float
    warnings: tuple[str, ...]


def throughput(
    task: Task,
    *,
    batch_sizes: Sequence[int] | None = None,
    max_batch_size: int | None = None,
    micro_batch_size: int | None = None,
    budget_plain_steps: float = 60.0,
    device: torch.device | str = "cpu",
    seed: int = 0,
    timer: Callable[[], float] = time.perf_counter,
    level: float = 0.95,
) -> Throughput:
    """Measure the time of a whole optimizer step: fetch the batch, forward, backward, update.

    A fresh model is measured at a learning rate of zero, so it neither moves nor diverges. Sizes take turns, so that a disturbance
    meets them all alike; each has a warm-up first. Small sizes, which are cheap, get more repeats. Measuring ends when
    every size is settled to 1 %, or with the budget; the largest sizes are left out where they would not fit it.

    Args:
        task: The training job. Its own batch size is always measured: a step at it is the unit of the budget.
        batch_sizes: Sizes to measure; from 2 by factors of 4 to the task's own, then doubling, where left out.
        max_batch_size: Largest size that is doubled to; the number of training examples where left out.
        micro_batch_size: Most examples in one forward pass; larger batches are accumulated.
        budget_plain_steps: Wall time that may be spent, in steps at the task's batch size. Two sizes with their repeats are
            measured in any case.
        device: Where to train.
        seed: Of the model, the data order and the bootstrap.
        timer: Seconds.
        level: Nominal coverage of the intervals.

    Raises:
        InputError: If a batch size is above the number of training examples, or an argument breaks a rule.
    """
    check_number("budget_plain_steps", budget_plain_steps, above=0.0)
    check_number("level", level, above=0.0, below=1.0)
    if micro_batch_size is not None:
        check_int("micro_batch_size", micro_batch_size, at_least=1)
    if task.num_train < 2:
        raise InputError("train must hold at least 2 examples to compare batch sizes, got 1; give more data")
    if batch_sizes is None:
        limit = task.num_train
        if max_batch_size is not None:
            limit = min(limit, check_int("max_batch_size", max_batch_size, at_least=1))
        sizes = batch_size_grid(task.batch_size, limit, task.num_train, micro_batch_size)
    else:
        sizes = _given_sizes(task, batch_sizes)
    device = torch.device(device)
    random_state = RandomState.capture()
    try:
        measurement = _Measurement(task, micro_batch_size, device, seed, timer)
        measurement.run(sizes, budget_plain_steps, may_skip=batch_sizes is None)
        return measurement.result(level, np.random.default_rng(seed))
    finally:
        random_state.restore()


def batch_size_grid(batch_size: int, limit: int, num_examples: int, micro_batch_size: int | None = None) -> list[int]:
    """``batch_size`` with sizes from 2 below it by factors of 4, and above it by factors of 2 up to ``limit``.

    Sizes above ``micro_batch_size`` are whole numbers of micro-batches. A single example is left out because batch norm refuses
    it. There are always at least two sizes.
    """
    sizes = {batch_size}
    below = batch_size
    while below > 2:
        below = max(2, below // 4)
        sizes.add(below)
    above = 2 * batch_size
    while above <= limit:
        part = above if micro_batch_size is None else min(micro_batch_size, above)
        sizes.add(above // part * part)
        above *= 2
    if micro_batch_size is not None and batch_size < micro_batch_size <= limit:
        sizes.add(micro_batch_size)
    kept = sorted(size for size in sizes if size <= limit or size == batch_size)
    if len(kept) == 1:
        kept = sorted({batch_size, batch_size // 2 if batch_size > 1 else min(2, num_examples)})
    return kept


def _given_sizes(task: Task, batch_sizes: Sequence[int]) -> list[int]:
    sizes = {check_int("batch size", size, at_least=1) for size in batch_sizes}
    if max(sizes, default=0) > task.num_train:
        raise InputError(
            f"batch_sizes must be at most the number of training examples, got {max(sizes)} for {task.num_train}"
        )
    sizes.add(task.batch_size)
    if len(sizes) < 2:
        raise InputError(
            f"batch_sizes must hold a size beside the task's own, got {list(batch_sizes)}; add a larger or smaller one"
        )
    return sorted(sizes)


class _Measurement:
    def __init__(
        self, task: Task, micro_batch_size: int | None, device: torch.device, seed: int, timer: Callable[[], float]
    ) -> None:
        self.task, self.micro_batch_size, self.device, self.timer = task, micro_batch_size, device, timer
        torch.manual_seed(seed)
        self.model = task.make_model(seed, device)
        self.optimizer = task.optimizer.build(self.model.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # the values stay as they are, so no batch size can diverge
        self.sampler = EpochSampler(task.num_train, seed)
        self.warm_up_s: dict[int, float] = {}
        self.repeats: dict[int, list[float]] = {}
        self.notes: list[str] = []
        self.num_steps = self.num_examples = 0
        self.start = timer()

    def run(self, sizes: Sequence[int], budget_plain_steps: float, *, may_skip: bool) -> None:
        plain = self.task.batch_size
        # The first step of a process imports and compiles, which is no cost of this measurement.
        self.timed_step(plain)
        self.start = self.timer()
        self.warm_up(plain)
        self.budget_plain_steps = budget_plain_steps
        self.warm_up_all(sizes, may_skip)
        for round_number in range(MAX_REPEATS):
            # Every other round runs backwards: a size does not always follow the same neighbour.
            due = [size for size in sorted(self.repeats, reverse=round_number % 2 == 1) if self.wants_more(size)]
            due = [size for size in due if not self.repeats[size] or self.left_s() >= self.expected_s(size)]
            if not due:
                break
            for size in due:
                self.repeats[size].append(self.timed_step(size))
        if (
            max(len(times) for times in self.repeats.values()) < 2
        ):  # no budget for a second round, but a scatter is needed
            self.repeats[plain].append(self.timed_step(plain))

    def warm_up_all(self, sizes: Sequence[int], may_skip: bool) -> None:
        plain = self.task.batch_size
        for size in sizes:
            if size == plain:
                continue
            committed = sum(MIN_REPEATS * self.expected_s(known) for known in self.repeats)
            needed = (1 + MIN_REPEATS) * self.expected_s(size)
            if len(self.repeats) > 1 and committed + needed > self.left_s():
                if size > plain:
                    self.notes.append(
                        f"batch sizes from {size} on were not timed, because they would have cost more than the budget of "
                        f"{self.budget_plain_steps:g} plain steps; their step time is extrapolated"
                    )
                    break
                continue
            try:
                self.warm_up(size)
            except (ValueError, RuntimeError) as error:
                if not may_skip:
                    raise
                self.notes.append(
                    f"batch size {size} was left out: {type(error).__name__}: {str(error).splitlines()[0]}"
                )
                if size > plain:
                    break

    def warm_up(self, size: int) -> None:
        self.warm_up_s[size] = self.timed_step(size)
        self.repeats[size] = []

    def timed_step(self, size: int) -> float:
        self._synchronize()
        before = self.timer()
        train_steps(
            self.task,
            self.model,
            self.optimizer,
            self.sampler,
            batch_size=size,
            num_steps=1,
            micro_batch_size=self.micro_batch_size,
        )
        self._synchronize()
        seconds = self.timer() - before
        self.num_steps += 1
        self.num_examples += size
        return seconds

    def expected_s(self, size: int) -> float:
        """Forecast of a step: its repeats, else its warm-up, else the next smaller size's share and no less."""
        if self.repeats.get(size):
            return float(np.median(self.repeats[size]))
        if size in self.warm_up_s:
            return self.warm_up_s[size]
        known = max((other for other in self.repeats if other < size), default=min(self.repeats))
        return self.expected_s(known) * max(1.0, size / known)

    def left_s(self) -> float:
        return self.budget_plain_steps * self.expected_s(self.task.batch_size) - (self.timer() - self.start)

    def wants_more(self, size: int) -> bool:
        """Whether a size lacks repeats, or is unsettled and has not used up its share of the budget."""
        times = self.repeats[size]
        if len(times) < MIN_REPEATS:
            return True
        share_s = self.budget_plain_steps * self.expected_s(self.task.batch_size) / len(self.repeats)
        # The standard error of a median is about 1.25 spread / sqrt(count).
        error = 1.25 * robust_spread(list(_positive(self.repeats).values())) / math.sqrt(len(times))
        return error > SETTLED and self.warm_up_s[size] + sum(times) + self.expected_s(size) <= share_s

    def result(self, level: float, rng: np.random.Generator) -> Throughput:
        if len(self.repeats) < 2:
            raise InputError(
                f"task must train at 2 batch sizes to compare them, got {sorted(self.repeats)}; {'; '.join(self.notes)}"
            )
        curve = fit_step_time(_positive(self.repeats), rng=rng, level=level)
        plain_step_s = float(np.median(_positive(self.repeats)[self.task.batch_size]))
        seconds = self.timer() - self.start
        return Throughput(
            **{entry.name: getattr(curve, entry.name) for entry in fields(curve)},
            num_steps=self.num_steps,
            num_examples=self.num_examples,
            plain_step_s=plain_step_s,
            cost_plain_steps=seconds / plain_step_s,
            seconds=seconds,
            warnings=(*self.notes, *self._warnings(curve)),
        )

    def _warnings(self, curve: StepTimeCurve) -> list[str]:
        found = []
        shortest = min(min(times) for times in self.repeats.values())
        if shortest <= 0 or _resolution_s(self.timer) > COARSE * shortest:
            found.append(f"the timer is too coarse for a step of {shortest:.1e} s; the times are rough")
        if curve.spread > NOISY:
            found.append(
                f"repeats of the same step scatter by {curve.spread:.0%}: other work disturbs this machine, measure again when it "
                "is idle"
            )
        load = load_average()
        if load is not None and load > num_usable_cpus():
            found.append(
                f"the load average is {load:.1f} on {num_usable_cpus()} processors: steps wait for their turn, and several torch "
                "threads for each other; stop the other work or use torch.set_num_threads(1)"
            )
        if self.device.type == "cpu" and malloc_keeps_memory() is False:
            found.append(
                "page faults of large buffers may slow large batches on this CPU: set MALLOC_MMAP_MAX_=0 and "
                "MALLOC_TRIM_THRESHOLD_=100000000000 in the environment before Python starts"
            )
        if curve.fit == "piecewise":
            found.append(
                "the step time is not a constant plus a part for each example, so it is interpolated between the measured sizes"
            )
        return found

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _positive(repeats: dict[int, list[float]]) -> dict[int, list[float]]:
    """The times, with those that a coarse timer took for nothing at the least that can be told."""
    return {size: [max(value, 1e-9) for value in times] for size, times in repeats.items()}


def _resolution_s(timer: Callable[[], float]) -> float:
    """What the system says of one of its own clocks; 0 for another timer."""
    clocks: dict[Any, Literal["perf_counter", "time", "monotonic", "process_time"]] = {
        time.perf_counter: "perf_counter",
        time.time: "time",
        time.monotonic: "monotonic",
        time.process_time: "process_time",
    }
    return time.get_clock_info(clocks[timer]).resolution if timer in clocks else 0.0
