"""The time of one step over that of another, from steps in turn, with an interval."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Median over rounds with the order statistics that hold the population's median in 95 % of samples.

    Attributes:
        value: Median ratio of the other step's time to the plain one's.
        low: Lower end of the interval.
        high: Upper end.
        plain_s: Median time of a plain step.
    """

    value: float
    low: float
    high: float
    plain_s: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


def time_ratio(plain: Callable[[], object], other: Callable[[], object], rounds: int) -> Ratio:
    """Time plain, other, other and plain in each round, so that a steady drift of the machine cancels; the first round is left out."""
    ratios, plain_times = [], []
    for _ in range(rounds + 1):
        first, one = clock(plain), clock(other)
        two, last = clock(other), clock(plain)
        ratios.append((one + two) / (first + last))
        plain_times += [first, last]
    ordered = sorted(ratios[1:])
    # Half of the count, less 1.96 binomial deviations.
    reach = max(int(0.5 * rounds - 0.98 * rounds**0.5), 0)
    return Ratio(
        value=statistics.median(ordered),
        low=ordered[reach],
        high=ordered[rounds - 1 - reach],
        plain_s=statistics.median(plain_times[2:]),
    )


def clock(step: Callable[[], object]) -> float:
    """Process CPU seconds of a step; seconds by the clock where there is a GPU."""
    on_gpu = torch.cuda.is_available()
    read = time.perf_counter if on_gpu else time.process_time
    start = read()
    step()
    if on_gpu:
        torch.cuda.synchronize()
    return read() - start
