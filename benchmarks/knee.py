"""The knee of the throughput curve on four tasks: how good the recommended batch is, its cost, and what a loaded machine does to it.

    BATCHWRIGHT_DATA=/path/to/data python -m benchmarks.knee [--repeats N]

Each task is measured N times as the machine is, and N times with a busy loop on every processor beside it. Truth: throughput by the
thread's processor time at each recommended batch and at all powers of two up to the data set, in nine turns, lower quartiles; the table
shows throughput at the recommended batch over the best of these. A cost of a plain step is one step at the task's default batch.
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

from batchwright.core.environment import num_usable_cpus
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import train_steps
from batchwright.measure.throughput import Throughput, throughput
from batchwright.tasks.registry import REGISTRY
from batchwright.tasks.task import Task

NAMES = ("digits-mlp", "digits-cnn", "noisy-quadratic")
# The truth goes up to the first size whose step takes longer than this; larger ones gain nothing by then.
MAX_STEP_S, ROUNDS = 0.6, 9


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
            process.terminate()
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
    for _ in range(ROUNDS):  # sizes take turns, so that a disturbance meets them all
        for size, found in times.items():
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
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    root = os.environ.get("BATCHWRIGHT_DATA")
    # Without data the fourth is the one whose steps take longest.
    names = (*NAMES, "uci-mlp" if root else "char-gpt")
    tasks = [REGISTRY[name].make(Path(root) if root else None, None) for name in names]
    idle = {task.name: measure(task, repeats) for task in tasks}
    with busy_loops():
        loaded = {task.name: measure(task, repeats) for task in tasks}
    print(
        "| task | knees | of the best | plain steps | in steps | knees, busy | of the best | moved by 2^ | regions | loading |"
    )
    print("|---|---|---|---|---|---|---|---:|---|---:|")
    for task in tasks:
        knees = {state: [one.knee for one, _ in runs[task.name]] for state, runs in (("idle", idle), ("busy", loaded))}
        powers = [2**power for power in range(3, int(math.log2(task.num_train)) + 1)]
        rates = true_rates(task, sorted({*powers, *knees["idle"], *knees["busy"], task.num_train}))
        best = max(rates.values())
        share = {state: [f"{rates.get(knee, math.nan) / best:.1%}" for knee in found] for state, found in knees.items()}
        moved = max(abs(math.log2(b / np.median(knees["idle"]))) for b in knees["busy"])
        last = idle[task.name][-1][0]
        regions = ", ".join(f"{point.batch_size} {point.region}" for point in last.points)
        costs = " ".join(f"{one.cost_plain_steps:.0f}" for one, _ in idle[task.name])
        inner = " ".join(f"{sum_of_steps(one):.0f}" for one, _ in idle[task.name])
        print(
            f"| {task.name} | {joined(knees['idle'])} | {joined(share['idle'])} | {costs} | {inner} | {joined(knees['busy'])} | "
            f"{joined(share['busy'])} | {moved:.2f} | {regions} | {1e6 * last.loading_s:.2f} us |",
            flush=True,
        )


def sum_of_steps(found: Throughput) -> float:
    """Plain steps that the timed steps alone amount to."""
    repeats = sum((1 + point.num_repeats) * point.step_time_s.value for point in found.points)
    return repeats / found.plain_step_s


def joined(values: list) -> str:
    return " ".join(map(str, values))


if __name__ == "__main__":
    main()
