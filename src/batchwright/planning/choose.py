"""The batch size that an objective asks for, with what its uncertain inputs do to it.

Source: McCandlish et al. (2018), arXiv:1812.06162, eq. (2.11) for the examples; the time of a step is what was measured.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from batchwright.core.checks import check_choice
from batchwright.core.statistics import Array, Interval, normal_quantile
from batchwright.planning.laws import power_of_two

OBJECTIVES = ("time", "examples", "balanced")
# "balanced" spends at most this part more examples than the small-batch limit.
EXTRA_EXAMPLES = 0.2
# Beyond this many critical sizes a larger batch saves less than a fifth of the steps whatever the device, and wastes examples.
MAX_CRITICAL_SIZES = 4.0
NUM_DRAWS = 2000

StepTime = Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A batch size with its uncertainty.

    Attributes:
        batch_size: Power of two nearest to the wanted size, within the bounds.
        wanted: The size that the objective asks for, before rounding, with its interval.
        reason: One sentence.
        excess_time: Time to target at ``batch_size`` over that at the fastest size, minus one; over the draws of all that is uncertain.
        grid: Batch sizes of the curves.
        time: Relative time to target at each size of the grid, with its interval; the fastest has 1.
        examples: Examples to target over the small-batch limit, at each size of the grid.
    """

    batch_size: int
    wanted: Interval
    reason: str
    excess_time: Interval
    grid: tuple[int, ...]
    time: tuple[Interval, ...]
    examples: tuple[float, ...]


def choose(
    objective: str,
    *,
    critical_batch_size: Interval,
    step_time_s: StepTime,
    step_time_error: float,
    flat_until: int,
    max_batch_size: int,
    rng: np.random.Generator,
) -> Choice:
    """Choose the batch size for an objective.

    ``time`` minimises ``(1 + B_crit / B) t(B)`` over sizes up to four critical ones. ``balanced`` takes the largest size that spends at
    most 20 % more examples than the small-batch limit, but not past the fastest. ``examples`` takes the largest size whose step costs
    no more than the smallest batch's, so that nothing is gained by going lower, and never more than ``balanced``.

    Args:
        objective: ``time``, ``examples`` or ``balanced``.
        critical_batch_size: In examples, taken as log-normal.
        step_time_s: Seconds of a step at each of an array of batch sizes.
        step_time_error: Relative standard error of the slope of the step time, taken as log-normal.
        flat_until: Largest size whose step takes about as long as the smallest one's.
        max_batch_size: Upper bound: the number of training examples, or a limit of the user's.
        rng: For the draws.
    """
    check_choice("objective", objective, OBJECTIVES)
    grid = np.unique(np.round(np.geomspace(1, max_batch_size, 200)))
    times = step_time_s(grid)
    centre = _wanted(objective, grid, times, np.array([critical_batch_size.value]), flat_until)[0]
    batch_size = power_of_two(centre, at_most=max_batch_size)

    critical = _draws(critical_batch_size, rng)
    # The shape of the step-time curve is uncertain too: its slope over its constant part is scaled as a whole.
    tilt = np.exp(step_time_error * rng.standard_normal(NUM_DRAWS))
    drawn_times = times[0] + (times - times[0]) * tilt[:, None]
    wanted = _wanted(objective, grid, drawn_times, critical, flat_until)
    relative = _relative_time(grid, drawn_times, critical)
    at_choice = np.array([np.interp(math.log(batch_size), np.log(grid), row) for row in relative])

    shown = sorted({2**power for power in range(int(math.log2(max_batch_size)) + 1)} | {batch_size})
    columns = [int(np.abs(grid - size).argmin()) for size in shown]
    centre_time = _relative_time(grid, times[None], np.array([critical_batch_size.value]))[0]
    return Choice(
        batch_size=batch_size,
        wanted=_interval(float(centre), wanted),
        reason=_reason(objective, centre, grid, times, critical_batch_size.value, max_batch_size)
        + _rounded(centre, batch_size),
        excess_time=_interval(float(np.interp(math.log(batch_size), np.log(grid), centre_time)) - 1, at_choice - 1),
        grid=tuple(shown),
        time=tuple(_interval(float(centre_time[column]), relative[:, column]) for column in columns),
        examples=tuple(1 + size / critical_batch_size.value for size in shown),
    )


def _relative_time(grid: Array, times: Array, critical: Array) -> Array:
    """Time to target over the shortest, shape ``(draws, sizes)``."""
    total = (1 + critical[:, None] / grid) * times
    return np.asarray(total / total.min(axis=1, keepdims=True))


def _wanted(objective: str, grid: Array, times: Array, critical: Array, flat_until: int) -> Array:
    """Size that the objective asks for, one a draw."""
    total = (1 + critical[:, None] / grid) * np.atleast_2d(times)
    fastest = np.minimum(grid[total.argmin(axis=1)], np.maximum(MAX_CRITICAL_SIZES * critical, 1))
    if objective == "time":
        return np.asarray(fastest)
    balanced = np.maximum(np.minimum(EXTRA_EXAMPLES * critical, fastest), 1)
    balanced = np.minimum(balanced, grid[-1])
    return np.asarray(balanced if objective == "balanced" else np.minimum(balanced, flat_until))


def _reason(objective: str, wanted: float, grid: Array, times: Array, critical: float, max_batch_size: int) -> str:
    fastest = float(grid[((1 + critical / grid) * times).argmin()])
    if fastest > MAX_CRITICAL_SIZES * critical:
        fastest = MAX_CRITICAL_SIZES * critical
        if objective == "time":
            return (
                f"a step is nearly all overhead, so larger is faster, but beyond {MAX_CRITICAL_SIZES:g} critical sizes "
                f"(of {critical:.0f}) at most a fifth of the steps is left to save"
            )
    if wanted >= max_batch_size:
        return f"the objective asks for the largest batch size allowed, {max_batch_size}"
    if objective == "time":
        return (
            f"at {fastest:.0f} the time to target is shortest: below it the device waits, above it examples are wasted "
            f"(critical batch size {critical:.0f})"
        )
    if objective == "balanced" and wanted < fastest:
        return (
            f"{wanted:.0f} is the largest size that spends at most {EXTRA_EXAMPLES:.0%} more examples than the small-batch limit "
            f"(critical batch size {critical:.0f}); the fastest would be {fastest:.0f}"
        )
    if objective == "balanced":
        return (
            f"{fastest:.0f} is the fastest size on this device and spends only {fastest / critical:.0%} more examples than the "
            f"small-batch limit (critical batch size {critical:.0f})"
        )
    return (
        f"a step costs about the same up to {wanted:.0f} examples, so a smaller batch would save examples for no time"
    )


def _rounded(wanted: float, batch_size: int) -> str:
    """How the wanted size became the batch size, where a reader would see two numbers."""
    if batch_size == round(wanted):
        return ""
    nearest = batch_size == power_of_two(wanted)
    return f"; {batch_size} is the {'nearest power of two' if nearest else 'largest power of two allowed'}"


def _draws(interval: Interval, rng: np.random.Generator) -> Array:
    """Log-normal draws with the interval's value as median and its ends as quantiles on either side."""
    normal = rng.standard_normal(NUM_DRAWS)
    quantile = normal_quantile(interval.level)
    # An end that is not bounded is taken as far out as the other one, at least a factor of ten.
    below = math.log(interval.value / interval.low) if interval.low > 0 else math.log(10)
    above = math.log(interval.high / interval.value) if math.isfinite(interval.high) else max(below, math.log(10))
    return np.asarray(interval.value * np.exp(np.where(normal < 0, below, above) * normal / quantile))


def _interval(value: float, draws: Array) -> Interval:
    low, high = (float(end) for end in np.quantile(draws, [0.025, 0.975]))
    return Interval(value=value, low=min(low, value), high=max(high, value))
