"""What distorts the timings of a training job on this machine, in sentences for whoever reads them."""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch

from batchwright.core.host import load_average, malloc_keeps_memory, num_usable_cpus
from batchwright.measure.step_time import StepTimeCurve

# Repeats that scatter by more than this part of their median were disturbed.
NOISY = 0.1
# A timer must tell the shortest step to this part of it.
COARSE = 0.01


def timing_warnings(
    curve: StepTimeCurve, shortest_s: float, timer: Callable[[], float], device: torch.device
) -> list[str]:
    """One sentence for each thing that distorted a measurement of step times.

    Args:
        curve: What was found.
        shortest_s: Seconds of the shortest step.
        timer: The clock that was read.
        device: Where the steps ran.
    """
    found = []
    if shortest_s <= 0 or _resolution_s(timer) > COARSE * shortest_s:
        found.append(f"the timer is too coarse for a step of {shortest_s:.1e} s; the times are rough")
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
    if device.type == "cpu" and malloc_keeps_memory() is False:
        found.append(
            "page faults of large buffers may slow large batches on this CPU: set MALLOC_MMAP_MAX_=0 and "
            "MALLOC_TRIM_THRESHOLD_=100000000000 in the environment before Python starts"
        )
    if curve.fit == "piecewise":
        found.append(
            "the step time is not a constant plus a part for each example, so it is interpolated between the measured sizes"
        )
    return found


def _resolution_s(timer: Callable[[], float]) -> float:
    """What the system says of one of its own clocks; 0 for another timer."""
    clocks: dict[Any, Literal["perf_counter", "time", "monotonic", "process_time"]] = {
        time.perf_counter: "perf_counter",
        time.time: "time",
        time.monotonic: "monotonic",
        time.process_time: "process_time",
    }
    return time.get_clock_info(clocks[timer]).resolution if timer in clocks else 0.0
