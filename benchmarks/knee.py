"""The knee of the throughput curve: how good the recommended batch is, what the whole call costs, and what a loaded machine does to it.

    BATCHWRIGHT_DATA=/path/to/data python -m benchmarks.knee [TASK ...] [--repeats N]

Each task is measured N times as the machine is, and N times with a busy loop on every processor beside it, after one call that sets
the process up. Truth: throughput by the thread's processor time at each recommended batch and at all powers of two up to the data
set, in turns for a few seconds, lower quartiles. The table shows throughput at the recommended batch over the best of these. Costs
are in steps at the task's default batch: the wall time of the whole call, from outside, and the part of it that was timed steps.
Set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from batchwright.core.host import num_usable_cpus
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import train_steps
from batchwright.measure.throughput import Throughput, throughput
from batchwright.tasks.registry import REGISTRY
from batchwright.tasks.task import Task

NAMES = ("digits-mlp", "digits-cnn", "noisy-quadratic", "char-gpt")
WITH_DATA = ("uci-mlp", "fashion-cnn")
# The truth goes up to the first size whose step takes longer than this; larger ones gain nothing by then.
MAX_STEP_S, ROUNDS, TRUTH_S = 0.6, 9, 5.0


def loop() -> None:
    while True:
        pass


@contextmanager
def busy_loops() -> Iterator[None]:
    loops = [multiprocessing.get_context("spawn").Process(target=loop, daemon=True) for _ in range(num_usable_cpus())]
    for process in loops:
        process.start()
    time.sleep(3.0)  # they import first
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.join()


def true_rates(task: Task, sizes: list[int]) -> dict[int, float]:
    """Examples a second of processor time; sizes whose steps are too long are left out, from the first on."""
    model = task.make_model(0)
    optimizer = task.optimizer.build(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    sampler, times = EpochSampler(task.num_train), {size: [] for size in sorted(sizes)}

    def timed(size: int) -> float:
        start = time.thread_time()
        train_steps(task, model, optimizer, sampler, batch_size=size, num_steps=1)
        return time.thread_time() - start

    for size in list(times):
        if timed(size) > MAX_STEP_S:
            times = {known: [] for known in times if known < size}
            break
    end = time.perf_counter() + TRUTH_S
    while time.perf_counter() < end or min(map(len, times.values())) < ROUNDS:
        for size, found in times.items():  # sizes take turns, so that a disturbance meets them all
            found.append(timed(size))
    return {size: size / float(np.quantile(found, 0.25)) for size, found in times.items()}


def measure(task: Task, repeats: int) -> list[tuple[Throughput, float]]:
    found = []
    for seed in range(repeats):
        start = time.perf_counter()
        one = throughput(task, seed=seed)
        found.append((one, time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = os.environ.get("BATCHWRIGHT_DATA")
    names = options.tasks or (*NAMES, *(WITH_DATA if root else ()))
    tasks = [REGISTRY[name].make(Path(root) if root else None, None) for name in names]
    print(
        "| task | plain step | knee | of the best | whole call | timed steps | knee, busy | of the best | moved by 2^ | regions |"
    )
    print("|---|---:|---|---|---|---|---|---|---:|---|")
    for task in tasks:
        throughput(task, budget_plain_steps=5.0)
        idle = measure(task, options.repeats)
        with busy_loops():
            loaded = measure(task, options.repeats)
        knees = {state: [one.knee for one, _ in found] for state, found in (("idle", idle), ("busy", loaded))}
        powers = [2**power for power in range(3, int(math.log2(task.num_train)) + 1)]
        rates = true_rates(task, sorted({*powers, *knees["idle"], *knees["busy"], task.num_train}))
        best = max(rates.values())
        share = {state: [100 * rates.get(knee, math.nan) / best for knee in found] for state, found in knees.items()}
        moved = max(abs(math.log2(busy / np.median(knees["idle"]))) for busy in knees["busy"])
        regions = ", ".join(f"{point.batch_size} {point.region}" for point in idle[-1][0].points)
        plain_s = float(np.median([one.plain_step_s for one, _ in idle]))
        whole = [seconds / one.plain_step_s for one, seconds in idle]
        inner = [sum_of_steps(one) for one, _ in idle]
        print(
            f"| {task.name} | {1e3 * plain_s:.2f} ms | {spanned(knees['idle'])} | {spanned(share['idle'], 1)} % | {spanned(whole)} | "
            f"{spanned(inner)} | {spanned(knees['busy'])} | {spanned(share['busy'], 1)} % | {moved:.2f} | {regions} |",
            flush=True,
        )


def sum_of_steps(found: Throughput) -> float:
    """Plain steps that the timed steps alone amount to."""
    repeats = sum((1 + point.num_repeats) * point.step_time_s.value for point in found.points)
    return repeats / found.plain_step_s


def spanned(values: list, digits: int = 0) -> str:
    """The median and, in brackets, the smallest and the largest."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
