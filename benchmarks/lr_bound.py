"""The bound on the learning rate against the learning rates at which runs are lost.

    python -m benchmarks.lr_bound [TASK ...] [--seeds 3] [--steps 300]

For each task, seed and batch size: a plan's pilot at the task's defaults, the bound from the curvature at its end, and then runs at
learning rates of a geometric grid, each 1.5 times the one before it. A run goes on from the pilot's end, momentum included, or begins
anew, as a plan's run does. It is bad if a loss is not finite, if ten steps in a row have a mean loss above twice that of the point
where it began, or if its last third does not lie below that loss (of a fresh model: a tenth below, for a network that has died
stays where it began). The edge is the geometric middle between the largest learning rate below every bad one and the next.
Real data by BATCHWRIGHT_DATA; a task without its data is left out.
"""

import argparse
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from batchwright.core.batches import to_device
from batchwright.core.errors import DataError
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.curvature.lr_bound import lr_bound
from batchwright.measure.pilot import pilot
from batchwright.measure.snapshot import Snapshot, train_steps
from batchwright.planning.pilot_window import pilot_steps
from batchwright.planning.planner import PILOT
from batchwright.tasks.loading import load_task
from batchwright.tasks.task import Task

TASKS = ("digits-mlp", "digits-cnn", "noisy-quadratic", "uci-mlp:power-plant", "fashion-cnn")
SIZES, FACTOR, BUDGET = (1, 4, 16), 1.5, 300
# Fashion-MNIST at batch 512 takes a minute a run.
MAX_SIZE = {"fashion-cnn": 128}
WINDOW, SPIKE, PROGRESS = 10, 2.0, 0.9
# The task's own learning rate has a place on the grid; none goes on for ever.
GRID = range(-3, 20)


@dataclass(frozen=True, kw_only=True)
class Found:
    """One task, batch size and seed."""

    bound: float
    going_on: float
    anew: float


def start_loss(task: Task, snapshot: Snapshot) -> float:
    """Mean loss over at most 2,048 training examples at the snapshot."""
    model, _ = snapshot.restore(task, task.optimizer, "cpu")
    indices = torch.randperm(task.num_train, generator=torch.Generator().manual_seed(7))[:2048]
    with torch.no_grad():
        return float(
            torch.cat(
                [task.loss(model, to_device(fetch(task.train, part), "cpu")) for part in indices.split(256)]
            ).mean()
        )


def is_bad(
    task: Task, snapshot: Snapshot, size: int, lr: float, seed: int, num_steps: int, limit: float, first: float
) -> bool:
    """Whether a run from the snapshot ends above ``limit``, spikes above twice ``first``, or leaves the numbers."""
    torch.manual_seed(seed)
    model, optimizer = snapshot.restore(task, replace(task.optimizer, lr=lr), "cpu")
    sampler = EpochSampler(task.num_train, seed + 1)
    losses: list[float] = []

    def after_step(_: int, mean: Tensor) -> None:
        losses.append(float(mean))

    while len(losses) < num_steps:
        train_steps(task, model, optimizer, sampler, batch_size=size, num_steps=WINDOW, after_step=after_step)
        recent = float(np.mean(losses[-WINDOW:]))
        if not math.isfinite(recent) or recent > SPIKE * first:
            return True
    return float(np.mean(losses[-num_steps // 3 :])) > limit


def grid(default: float) -> Iterator[float]:
    for power in GRID:
        yield default * FACTOR**power


def edge(task: Task, snapshot: Snapshot, size: int, seed: int, num_steps: int, part: float) -> float:
    """Learning rate between the last good and the first bad one of the grid; NaN where the smallest is bad, inf where none is."""
    first, good = start_loss(task, snapshot), math.nan
    for lr in grid(task.optimizer.lr):
        if is_bad(task, snapshot, size, lr, seed, num_steps, part * first, first):
            return good * FACTOR**0.5
        good = lr
    return math.inf


def measure(task: Task, size: int, seed: int, num_steps: int) -> Found:
    found = pilot(
        task,
        num_steps=pilot_steps(task, PILOT * BUDGET),
        batches_a_point=3,
        max_extra_batches=0,
        seed=seed,
        device="cpu",
    )
    bound = lr_bound(task, found.snapshot, seed=seed)
    at_size = bound.max_lr(size) if bound else None
    torch.manual_seed(seed)
    model = task.make_model(seed)
    fresh = Snapshot.take(model, task.optimizer.build(model.parameters()))
    return Found(
        bound=at_size.value if at_size else math.inf,
        going_on=edge(task, found.snapshot, size, seed, num_steps, 1.0),
        anew=edge(task, fresh, size, seed, num_steps, PROGRESS),
    )


def spanned(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| task | batch size | bound | edge, going on | bound over it | edge, anew | bound over it |")
    print("|---|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {"going on": [], "anew": []}
    for name in options.tasks:
        try:
            task = load_task(name)
        except DataError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        for size in (factor * task.batch_size for factor in SIZES):
            if size > min(task.num_train, MAX_SIZE.get(name, task.num_train)):
                continue
            found = [measure(task, size, seed, options.steps) for seed in range(options.seeds)]
            going_on, anew = [each.bound / each.going_on for each in found], [each.bound / each.anew for each in found]
            ratios["going on"] += going_on
            ratios["anew"] += anew
            columns = (
                [each.bound for each in found],
                [each.going_on for each in found],
                going_on,
                [each.anew for each in found],
                anew,
            )
            print(f"| {name} | {size} | {' | '.join(map(spanned, columns))} |", flush=True)
    for kind, values in ratios.items():
        known = [value for value in values if math.isfinite(value) and value > 0]
        above, half_above, far_below = (sum(value > limit for value in known) for limit in (1.0, 2.0, 0.25))
        print(
            f"\n{kind}: an edge was found in {len(known)} of {len(values)} cases; bound over edge {statistics.median(known):.2f} "
            f"({min(known):.2f}–{max(known):.2f}); bound above the edge in {above}, half the bound above it in {half_above}, "
            f"bound below a quarter of it in {len(known) - far_below}"
        )


if __name__ == "__main__":
    main()
