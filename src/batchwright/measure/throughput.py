"""How long an optimizer step takes at each batch size, measured in interleaved repeats within a budget of plain steps.

On a CPU the processor time of the training thread gives the shape of the curve, and the wall time its height: other work on the
machine stretches a long step and not a short one, which would bend the curve; on average it stretches all alike.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch

from batchwright.core.batches import Batch, to_device
from batchwright.core.checks import check_int, check_number
from batchwright.core.environment import load_average, malloc_keeps_memory, num_usable_cpus
from batchwright.core.errors import InputError
from batchwright.core.objectives import accumulate_gradient
from batchwright.core.preserve import RandomState
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.step_time import StepTime, StepTimeCurve, fit_step_time, robust_spread
from batchwright.tasks.task import Task

MIN_REPEATS, MAX_REPEATS = 3, 30
# Steps dearer than this many plain ones are repeated once less.
DEAR = 3.0
# Sizes are raised while one more raise gains at least this part of throughput.
GAIN = 0.02
# The fit at the end takes about this long, which is many steps of a tiny model.
FIT_S = 0.01
# A fetch that keeps the processor busy for this part of its time waits for nothing.
BUSY = 0.8
# A size is settled when the standard error of its median is below this part of it.
SETTLED = 0.015
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
        loading_s: Seconds an example of fetching a batch of the largest measured size.
    """

    num_steps: int
    num_examples: int
    plain_step_s: float
    cost_plain_steps: float
    seconds: float
    warnings: tuple[str, ...]
    loading_s: float = 0.0


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
    meets them all alike; each has a warm-up first. Sizes are raised until that gains under 2 % of throughput, and left out where
    they would not fit the budget; the knee is looked for up to the largest allowed size all the same. Measuring ends when every
    size is settled to 1.5 %, so a quiet machine needs fewer steps.

    Args:
        task: The training job. Its own batch size is always measured: a step at it is the unit of the budget.
        batch_sizes: Sizes to measure; from 2 by a factor of 16 to the task's own, then by factors of 4, where left out.
        max_batch_size: Largest size that is measured or recommended; the number of training examples where left out.
        micro_batch_size: Most examples in one forward pass; larger batches are accumulated.
        budget_plain_steps: Time that may be spent, in steps at the task's batch size; what other work takes is left out. Two
            sizes with their repeats are measured in any case.
        device: Where to train.
        seed: Of the model, the data order and the bootstrap.
        timer: Seconds; another one than the default is believed on a CPU too, instead of the processor time.
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
        limit = max(sizes)
    device = torch.device(device)
    random_state = RandomState.capture()
    try:
        measurement = _Measurement(task, micro_batch_size, device, seed, timer)
        measurement.run(sizes, budget_plain_steps, may_skip=batch_sizes is None)
        return measurement.result(level, np.random.default_rng(seed), limit)
    finally:
        random_state.restore()


def batch_size_grid(batch_size: int, limit: int, num_examples: int, micro_batch_size: int | None = None) -> list[int]:
    """``batch_size`` with a 16th of it below, at least 2, and above it sizes by factors of 4 up to ``limit``, itself the last.

    Sizes above ``micro_batch_size`` are whole numbers of micro-batches. A single example is left out because batch norm refuses
    it. There are always at least two sizes.
    """
    sizes = {batch_size}
    if batch_size > 2:
        sizes.add(max(2, batch_size // 16))
    above = 4 * batch_size
    while above < 4 * limit:
        size = min(above, limit)
        part = size if micro_batch_size is None else min(micro_batch_size, size)
        if size // part * part >= 2 * max(sizes):
            sizes.add(size // part * part)
        above *= 4
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """Seconds of one step: the fetch and the rest, by the clock on the wall and by the thread's processor time."""

    load_s: float
    update_s: float
    busy_load_s: float
    busy_update_s: float

    @property
    def wall_s(self) -> float:
        return self.load_s + self.update_s


class _Measurement:
    def __init__(
        self, task: Task, micro_batch_size: int | None, device: torch.device, seed: int, timer: Callable[[], float]
    ) -> None:
        self.task, self.micro_batch_size, self.device, self.timer = task, micro_batch_size, device, timer
        # A GPU works while this thread waits, and a given timer is meant to be read.
        self.busy_timer = time.thread_time if device.type == "cpu" and timer is time.perf_counter else timer
        torch.manual_seed(seed)
        self.model = task.make_model(seed, device)
        self.optimizer = task.optimizer.build(self.model.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # the values stay as they are, so no batch size can diverge
        self.sampler = EpochSampler(task.num_train, seed)
        self.warm_up_s: dict[int, float] = {}
        self.repeats: dict[int, list[_Step]] = {}
        self.notes: list[str] = []
        self.num_steps = self.num_examples = self.num_busy_fetches = 0
        self.start, self.spent_s = timer(), 0.0

    def run(self, sizes: Sequence[int], budget_plain_steps: float, *, may_skip: bool) -> None:
        plain = self.task.batch_size
        # The first step of a process imports and compiles, which is no cost of this measurement.
        self.timed_step(plain)
        self.start, self.spent_s = self.timer(), 0.0
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
            max(len(steps) for steps in self.repeats.values()) < 2
        ):  # no budget for a second round, but a scatter is needed
            self.repeats[plain].append(self.timed_step(plain))

    def warm_up_all(self, sizes: Sequence[int], may_skip: bool) -> None:
        plain = self.task.batch_size
        self.repeats[plain].append(self.timed_step(plain))
        for size in sizes:
            if size == plain:
                continue
            committed = sum(self.wanted(known) * self.expected_s(known) for known in self.repeats)
            needed = (1 + self.min_repeats(size)) * self.expected_s(size)
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
                continue
            self.repeats[size].append(self.timed_step(size))
            if may_skip and size > plain and self.gain(size) < GAIN:
                break

    def gain(self, size: int) -> float:
        """Part of throughput that ``size`` gains over the best smaller one."""
        rates = {
            known: known / min(self.busy_s(step) for step in steps) for known, steps in self.repeats.items() if steps
        }
        return rates[size] / max(rate for known, rate in rates.items() if known != size) - 1

    def warm_up(self, size: int) -> None:
        self.warm_up_s[size] = self.busy_s(self.timed_step(size))
        self.repeats[size] = []

    def timed_step(self, size: int) -> _Step:
        self._synchronize()
        before, busy_before = self.timer(), self.busy_timer()
        batch = self.load(size)
        self._synchronize()
        loaded, busy_loaded = self.timer(), self.busy_timer()
        self.update(batch)
        self._synchronize()
        after, busy_after = self.timer(), self.busy_timer()
        self.num_steps += 1
        self.num_examples += size
        step = _Step(
            load_s=loaded - before,
            update_s=after - loaded,
            busy_load_s=busy_loaded - busy_before,
            busy_update_s=busy_after - busy_loaded,
        )
        self.num_busy_fetches += step.busy_load_s >= BUSY * step.load_s
        self.spent_s += self.busy_s(step)
        return step

    def load(self, size: int) -> Batch:
        return to_device(fetch(self.task.train, self.sampler.take(size)), self.device)

    def update(self, batch: Batch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        accumulate_gradient(self.model, self.task.loss, batch, micro_batch_size=self.micro_batch_size)
        self.optimizer.step()

    def busy_s(self, step: _Step) -> float:
        """Seconds of a step without those in which other work had the processor; at least what a coarse timer can tell."""
        return max(self.busy_load_s(step) + step.busy_update_s, 1e-9)

    def busy_load_s(self, step: _Step) -> float:
        # A fetch may also wait for a disk or for workers, which is its own time.
        return step.busy_load_s if 2 * self.num_busy_fetches >= self.num_steps else step.load_s

    def stretch(self) -> float:
        """How much longer steps took on the wall than their threads worked, on average over the measurement."""
        steps = [step for steps in self.repeats.values() for step in steps]
        busy_s, wall_s = sum(self.busy_s(step) for step in steps), sum(step.wall_s for step in steps)
        return max(1.0, wall_s / busy_s)

    def times(self, size: int, factor: float = 1.0) -> list[float]:
        return [factor * self.busy_s(step) for step in self.repeats[size]]

    def expected_s(self, size: int) -> float:
        """Forecast of a step: its repeats, else its warm-up, else the next smaller size's share and no less."""
        if self.repeats.get(size):
            return float(np.median(self.times(size)))
        if size in self.warm_up_s:
            return self.warm_up_s[size]
        smaller = sorted(known for known in self.repeats if known < size)
        known = smaller[-1] if smaller else min(self.repeats)
        if len(smaller) < 2:
            return self.expected_s(known) * max(1.0, size / known)
        # The line through the last two, and no less than half of the growth in proportion to the size.
        before = self.expected_s(smaller[-2])
        slope = max(0.0, self.expected_s(known) - before) / (known - smaller[-2])
        return self.expected_s(known) + 1.5 * slope * (size - known)

    def left_s(self) -> float:
        fit_s = FIT_S if self.timer is time.perf_counter else 0.0
        return self.budget_plain_steps * self.expected_s(self.task.batch_size) - self.spent_s - fit_s

    def min_repeats(self, size: int) -> int:
        return MIN_REPEATS if self.expected_s(size) <= DEAR * self.expected_s(self.task.batch_size) else MIN_REPEATS - 1

    def wanted(self, size: int) -> int:
        """Repeats that a size still lacks."""
        return max(0, self.min_repeats(size) - len(self.repeats[size]))

    def wants_more(self, size: int) -> bool:
        """Whether a size lacks repeats, or is unsettled and has not used up its share of the budget."""
        steps = self.repeats[size]
        if self.wanted(size):
            return True
        share_s = self.budget_plain_steps * self.expected_s(self.task.batch_size) / len(self.repeats)
        # The standard error of a median is about 1.25 spread / sqrt(count).
        spread = robust_spread([self.times(known) for known in self.repeats if self.repeats[known]])
        error = 1.25 * spread / math.sqrt(len(steps))
        spent_s = self.warm_up_s[size] + sum(self.times(size))
        return error > SETTLED and spent_s + self.expected_s(size) <= share_s

    def result(self, level: float, rng: np.random.Generator, limit: int) -> Throughput:
        if len(self.repeats) < 2:
            raise InputError(
                f"task must train at 2 batch sizes to compare them, got {sorted(self.repeats)}; {'; '.join(self.notes)}"
            )
        stretch = self.stretch()
        times = {size: self.times(size, stretch) for size in self.repeats}
        curve = fit_step_time(times, rng=rng, level=level, look_ahead_to=limit)
        points = tuple(self.with_region(point, curve, stretch) for point in curve.points)
        plain_step_s = float(np.median(times[self.task.batch_size]))
        seconds = self.timer() - self.start
        parts = {entry.name: getattr(curve, entry.name) for entry in fields(curve)}
        return Throughput(
            **{**parts, "points": points},
            num_steps=self.num_steps,
            num_examples=self.num_examples,
            plain_step_s=plain_step_s,
            cost_plain_steps=seconds / plain_step_s,
            seconds=seconds,
            warnings=(*self.notes, *self._warnings(curve)),
            loading_s=points[-1].loading_s,
        )

    def with_region(self, point: StepTime, curve: StepTimeCurve, stretch: float) -> StepTime:
        size, step_s = point.batch_size, point.step_time_s.value
        loading_s = stretch * float(np.median([self.busy_load_s(step) for step in self.repeats[size]]))
        growing_s = curve.step_time_s(2 * size).value - step_s
        region = "loading" if loading_s >= step_s / 2 else "launch" if growing_s < step_s / 2 else "compute"
        return replace(point, loading_s=loading_s / size, region=region)

    def _warnings(self, curve: StepTimeCurve) -> list[str]:
        found = []
        shortest = min(step.wall_s for steps in self.repeats.values() for step in steps)
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


def _resolution_s(timer: Callable[[], float]) -> float:
    """What the system says of one of its own clocks; 0 for another timer."""
    clocks: dict[Any, Literal["perf_counter", "time", "monotonic", "process_time"]] = {
        time.perf_counter: "perf_counter",
        time.time: "time",
        time.monotonic: "monotonic",
        time.process_time: "process_time",
    }
    return time.get_clock_info(clocks[timer]).resolution if timer in clocks else 0.0
