"""Which batch size a device wants: steps timed at sizes that take turns, within a budget of plain steps, and their curve's knee."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median

import torch

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState
from batchwright.measure.batch_size_grid import batch_size_grid, with_own_size
from batchwright.measure.step_time import MISFIT, StepTime, StepTimeCurve, fit_step_time, robust_spread
from batchwright.measure.step_timer import StepTimer, TimedStep
from batchwright.measure.timing_warnings import timing_warnings
from batchwright.tasks.task import Task

MIN_REPEATS, MAX_REPEATS = 3, 30
# A size that denies the line is believed after this many repeats.
SURE_REPEATS = 8
# Steps dearer than this many plain ones are repeated once less.
DEAR = 3.0
# Sizes are raised while one more raise gains at least this part of throughput.
GAIN = 0.02
# What comes after the last step, the fit above all, takes about this long, which is a few steps of a tiny model.
FIT_S = 0.001
# The last steps are kept for those that take longer than their forecast.
RESERVE = 0.08
# A size is settled when the standard error of its median is below this part of it.
SETTLED = 0.015


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput(StepTimeCurve):
    """Step time against batch size, what it says, and what it cost; `step_time_s` predicts.

    Attributes:
        num_steps: Optimizer steps done, warm-ups included.
        num_examples: Examples that went through them.
        plain_step_s: Median seconds of a step at the task's own batch size.
        cost_plain_steps: ``seconds / plain_step_s``.
        seconds: Wall time of the measurement. Making the model and the very first step, with which a process also sets itself up,
            are in it with at most ten plain steps.
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
        budget_plain_steps: Time that the whole call may take, in steps at the task's batch size; what other work takes is left out.
            Two sizes with their repeats are measured in any case.
        device: Where to train.
        seed: Of the model and the data order.
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
        sizes = with_own_size(task, batch_sizes)
        limit = max(sizes)
    random_state = RandomState.capture()
    try:
        turns = _Turns(StepTimer(task, micro_batch_size, torch.device(device), seed, timer), budget_plain_steps)
        turns.run(sizes, may_skip=batch_sizes is None)
        return _result(turns, level, limit)
    finally:
        random_state.restore()


class _Turns:
    """Repeats of steps at sizes that take turns, as many as a budget of plain steps allows."""

    def __init__(self, timer: StepTimer, budget_plain_steps: float) -> None:
        self.timer, self.budget_plain_steps, self.plain = timer, budget_plain_steps, timer.task.batch_size
        self.warm_up_s: dict[int, float] = {}
        self.repeats: dict[int, list[TimedStep]] = {}
        self.notes: list[str] = []

    def run(self, sizes: Sequence[int], *, may_skip: bool) -> None:
        self.warm_up(self.plain)
        self.take_up(sizes, may_skip)
        for round_number in range(MAX_REPEATS):
            # Every other round runs backwards: a size does not always follow the same neighbour.
            due = sorted(self.unsettled() or self.contradicting(), reverse=round_number % 2 == 1)
            due = [size for size in due if self.left_s() >= self.expected_s(size)]
            if not due:
                break
            for size in due:
                self.repeats[size].append(self.timer.step(size))
        if self.most_repeats() < 2:  # no budget for a second round, but a scatter is needed
            self.repeats[self.plain].append(self.timer.step(self.plain))

    def take_up(self, sizes: Sequence[int], may_skip: bool) -> None:
        """Warm up each size that the budget bears and time it once."""
        self.repeats[self.plain].append(self.timer.step(self.plain))
        for size in sizes:
            if size == self.plain:
                continue
            committed = sum(self.wanted(known) * self.expected_s(known) for known in self.repeats)
            needed = (1 + self.min_repeats(size)) * self.expected_s(size)
            if len(self.repeats) > 1 and committed + needed > self.left_s():
                if size > self.plain:
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
                if size > self.plain:
                    break
                continue
            self.repeats[size].append(self.timer.step(size))
            if may_skip and size > self.plain and self.gain(size) < GAIN:
                break

    def gain(self, size: int) -> float:
        """Part of throughput that ``size`` gains over the best smaller one."""
        rates = {known: known / min(self.times(known)) for known, steps in self.repeats.items() if steps}
        return rates[size] / max(rate for known, rate in rates.items() if known != size) - 1

    def warm_up(self, size: int) -> None:
        self.warm_up_s[size] = self.timer.busy_s(self.timer.step(size))
        self.repeats[size] = []

    def times(self, size: int, factor: float = 1.0) -> list[float]:
        return [factor * self.timer.busy_s(step) for step in self.repeats[size]]

    def most_repeats(self) -> int:
        return max(len(steps) for steps in self.repeats.values())

    def expected_s(self, size: int) -> float:
        """Forecast of a step: its repeats, else its warm-up, else the next smaller size's share and no less."""
        if self.repeats.get(size):
            return median(self.times(size))
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
        """Seconds of the budget that are left for steps; what this class itself takes is no longer in them."""
        plain_s = self.expected_s(self.plain)
        fit_s = FIT_S if self.timer.timer is time.perf_counter else 0.0
        return (1 - RESERVE) * self.budget_plain_steps * plain_s - self.timer.seconds(plain_s, busy=True) - fit_s

    def min_repeats(self, size: int) -> int:
        return MIN_REPEATS if self.expected_s(size) <= DEAR * self.expected_s(self.plain) else MIN_REPEATS - 1

    def wanted(self, size: int) -> int:
        """Repeats that a size still lacks."""
        return max(0, self.min_repeats(size) - len(self.repeats[size]))

    def unsettled(self) -> list[int]:
        """Sizes that lack repeats, or whose median is uncertain and which have not used up their share of the budget."""
        # Once a round, because tiny steps take no longer than a look at what they gave.
        spread = robust_spread(map(self.times, self.repeats)) if self.most_repeats() > 1 else math.inf
        share_s = self.budget_plain_steps * self.expected_s(self.plain) / len(self.repeats)
        found = []
        for size in self.repeats:
            times = self.times(size)
            # The standard error of a median is about 1.25 spread / sqrt(count).
            uncertain = 1.25 * spread / math.sqrt(len(times)) > SETTLED
            affordable = self.warm_up_s[size] + sum(times) + median(times) <= share_s
            if self.wanted(size) or (uncertain and affordable):
                found.append(size)
        return found

    def contradicting(self) -> list[int]:
        """Sizes off a line that their few repeats deny: two or three may all have been disturbed, and look like a bend then."""
        curve = fit_step_time({size: self.times(size) for size in self.repeats})
        if curve.fit == "affine":
            return []
        line = {size: curve.overhead_s.value + curve.per_example_s.value * size for size in self.repeats}
        return [
            size
            for size, steps in self.repeats.items()
            if len(steps) < SURE_REPEATS and abs(median(self.times(size)) / line[size] - 1) > MISFIT
        ]


def _result(turns: _Turns, level: float, limit: int) -> Throughput:
    if len(turns.repeats) < 2:
        raise InputError(
            f"task must train at 2 batch sizes to compare them, got {sorted(turns.repeats)}; {'; '.join(turns.notes)}"
        )
    timer = turns.timer
    stretch = timer.stretch(step for steps in turns.repeats.values() for step in steps)
    times = {size: turns.times(size, stretch) for size in turns.repeats}
    curve = fit_step_time(times, level=level, look_ahead_to=limit)
    points = tuple(_with_region(point, curve, turns, stretch) for point in curve.points)
    plain_step_s = median(times[turns.plain])
    parts = {entry.name: getattr(curve, entry.name) for entry in fields(curve)}
    shortest_s = min(step.wall_s for steps in turns.repeats.values() for step in steps)
    warnings = (*turns.notes, *timing_warnings(curve, shortest_s, timer.timer, timer.device))
    seconds = timer.seconds(plain_step_s)
    return Throughput(
        **{**parts, "points": points},
        num_steps=timer.num_steps,
        num_examples=timer.num_examples,
        plain_step_s=plain_step_s,
        cost_plain_steps=seconds / plain_step_s,
        seconds=seconds,
        warnings=warnings,
        loading_s=points[-1].loading_s,
    )


def _with_region(point: StepTime, curve: StepTimeCurve, turns: _Turns, stretch: float) -> StepTime:
    size, step_s = point.batch_size, point.step_time_s.value
    loading_s = stretch * median([turns.timer.busy_load_s(step) for step in turns.repeats[size]])
    growing_s = curve.step_time_s(2 * size).value - step_s
    region = "loading" if loading_s >= step_s / 2 else "launch" if growing_s < step_s / 2 else "compute"
    return replace(point, loading_s=loading_s / size, region=region)
