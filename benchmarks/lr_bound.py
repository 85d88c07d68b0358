"""The bound on the learning rate against the learning rates at which runs are lost.

    python -m benchmarks.lr_bound [TASK ...] [--seeds 3] [--steps 300]

For each task, seed and batch size: a plan's pilot at the task's defaults, the bound from the curvature at its end, and then runs at
learning rates of a geometric grid, each 1.5 times the one before it. A run goes on from the pilot's end, momentum included, or begins
anew, as a plan's run does. It is *lost* if a loss is not finite, if ten steps in a row have a mean loss above 1.25 times that of the
fresh model, or if its last third does not lie a tenth below that. One that goes on is *worse* if it is lost, if ten steps in a row have
twice the loss of the pilot's end, or if its last third lies above that loss; a higher noise floor alone makes it worse. An edge is the
geometric middle between the largest learning rate below every bad one and the next. Real data by BATCHWRIGHT_DATA; a task without
its data is left out.
"""

import argparse
import math
import statistics
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
from batchwright.planning.measured_plan import PILOT
from batchwright.planning.pilot_window import pilot_steps
from batchwright.tasks.loading import load_task
from batchwright.tasks.task import Task

TASKS = ("digits-mlp", "digits-cnn", "noisy-quadratic", "uci-mlp:power-plant", "fashion-cnn")
SIZES, FACTOR, BUDGET = (1, 4, 16), 1.5, 300
# Fashion-MNIST at batch 512 takes a minute a run.
MAX_SIZE = {"fashion-cnn": 128}
WINDOW, SPIKE, OVERSHOOT, PROGRESS = 10, 2.0, 1.25, 0.9
# The task's own learning rate has a place on the grid; none goes on for ever.
GRID = range(-3, 20)


EDGES = ("going on, worse", "going on, lost", "anew, lost")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One task, batch size and seed: the bound, and the edges by the names of `EDGES`."""

    bound: float
    edges: dict[str, float]


def loss_at(task: Task, snapshot: Snapshot) -> float:
    """Mean loss over at most 2,048 training examples at the snapshot."""
    model, _ = snapshot.restore(task, task.optimizer, "cpu")
    indices = torch.randperm(task.num_train, generator=torch.Generator().manual_seed(7))[:2048]
    with torch.no_grad():
        losses = [task.loss(model, to_device(fetch(task.train, part), "cpu")) for part in indices.split(256)]
    return float(torch.cat(losses).mean())


def judge(
    task: Task, snapshot: Snapshot, size: int, lr: float, seed: int, num_steps: int, fresh_loss: float
) -> tuple[bool, bool]:
    """Whether a run from the snapshot is worse, and whether it is lost."""
    first = loss_at(task, snapshot)
    torch.manual_seed(seed)
    model, optimizer = snapshot.restore(task, replace(task.optimizer, lr=lr), "cpu")
    sampler = EpochSampler(task.num_train, seed + 1)
    losses: list[float] = []
    worse = False

    def after_step(_: int, mean: Tensor) -> None:
        losses.append(float(mean.detach()))

    while len(losses) < num_steps:
        train_steps(task, model, optimizer, sampler, batch_size=size, num_steps=WINDOW, after_step=after_step)
        recent = float(np.mean(losses[-WINDOW:]))
        if not math.isfinite(recent) or recent > OVERSHOOT * fresh_loss:
            return True, True
        worse = worse or recent > SPIKE * first
    last = float(np.mean(losses[-num_steps // 3 :]))
    return worse or last > first, last > PROGRESS * fresh_loss


def edges(
    task: Task, snapshot: Snapshot, size: int, seed: int, num_steps: int, fresh_loss: float
) -> tuple[float, float]:
    """Learning rates between the last good and the first bad one: to be worse, and to be lost; NaN where the smallest is bad."""
    good, found = math.nan, [math.inf, math.inf]
    for power in GRID:
        lr = task.optimizer.lr * FACTOR**power
        bad = judge(task, snapshot, size, lr, seed, num_steps, fresh_loss)
        found = [good * FACTOR**0.5 if now and math.isinf(edge) else edge for edge, now in zip(found, bad, strict=True)]
        if bad[1]:
            break
        good = lr
    return found[0], found[1]


def measure(task: Task, size: int, seed: int, num_steps: int) -> Found:
    steps = pilot_steps(task, PILOT * BUDGET)
    found = pilot(task, num_steps=steps, batches_a_point=3, max_extra_batches=0, seed=seed, device="cpu")
    bound = lr_bound(task, found.snapshot, seed=seed)
    at_size = bound.max_lr(size) if bound else None
    torch.manual_seed(seed)
    model = task.make_model(seed)
    fresh = Snapshot.take(model, task.optimizer.build(model.parameters()))
    fresh_loss = loss_at(task, fresh)
    going_on = edges(task, found.snapshot, size, seed, num_steps, fresh_loss)
    anew = edges(task, fresh, size, seed, num_steps, fresh_loss)
    return Found(
        bound=at_size.value if at_size else math.inf, edges=dict(zip(EDGES, (*going_on, anew[1]), strict=True))
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
    print(f"| task | batch size | bound |{'|'.join(f' edge: {kind} | bound over it ' for kind in EDGES)}|")
    print("|---|---|---|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {kind: [] for kind in EDGES}
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
            columns = [[each.bound for each in found]]
            for kind in EDGES:
                over = [each.bound / each.edges[kind] for each in found]
                ratios[kind] += over
                columns += [[each.edges[kind] for each in found], over]
            print(f"| {name} | {size} | {' | '.join(map(spanned, columns))} |", flush=True)
    for kind, values in ratios.items():
        known = [value for value in values if math.isfinite(value) and value > 0]
        above, half_above, far_below = (
            sum(test) for test in zip(*((v > 1, v > 2, v < 0.25) for v in known), strict=True)
        )
        print(
            f"\n{kind}: an edge was found in {len(known)} of {len(values)} cases; bound over edge {spanned(known)}; bound above the "
            f"edge in {above}, half the bound above it in {half_above}, bound below a quarter of it in {far_below}"
        )


if __name__ == "__main__":
    main()
