"""The critical batch size measured directly: train on from one checkpoint at several batch sizes and compare.

Source: Merrill et al. (2025), arXiv:2505.23971 (branched training). Deviation: instead of the largest batch size that does no harm, the
hyperbola ``examples(B) = E_min (1 + B / B_crit)`` is fitted to how far each branch got, so every branch counts.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from batchwright.core.batches import Batch, split_batch, to_device
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError, NotEnoughEvidenceError
from batchwright.core.objectives import mean_loss
from batchwright.core.preserve import RandomState
from batchwright.core.statistics import Interval, student_quantile
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import Snapshot, train_steps
from batchwright.tasks.task import Task

LrRule = Callable[[int], float]
NUM_CHECKS = 8
MAX_JUDGES, JUDGE_SEED = 1024, 20181214
# Critical batch sizes are searched in this range around the sizes tried; an end of it means "not seen to be smaller/larger".
RANGE = 64.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """Branches from one checkpoint at equal examples.

    Attributes:
        batch_sizes: Sizes tried, in rising order.
        lrs: Learning rate at each.
        losses: Loss of each on the sample after ``num_examples`` further examples, mean over seeds.
        standard_errors: Of the losses, over seeds.
        critical_batch_size: Fitted over all sizes, in examples; geometric mean over seeds with its interval.
        num_examples: Examples of each branch.
        num_steps: Optimizer steps of all branches.
        num_seeds: Repeats with other data orders.
        total_examples: Examples of all branches together: the cost.
        seconds: Wall time.
    """

    batch_sizes: tuple[int, ...]
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    standard_errors: tuple[float, ...]
    critical_batch_size: Interval
    num_examples: int
    num_steps: int
    num_seeds: int
    total_examples: int
    seconds: float


def branch(
    task: Task,
    checkpoint: Snapshot,
    batch_sizes: Sequence[int],
    *,
    lr_rule: LrRule | None = None,
    num_examples: int | None = None,
    num_seeds: int = 3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    level: float = 0.95,
    timer: Callable[[], float] = time.perf_counter,
) -> Branch:
    """Train on from ``checkpoint`` at each batch size for the same number of examples, and fit the critical batch size.

    The smallest size is the yardstick: where its own loss curve passes the final loss of a larger size tells how many examples
    the larger one wasted.

    Args:
        task: The training job. A fixed sample of its training set judges, in eval mode: the critical batch size is about optimization,
            and an evaluation loss near its floor tells nothing of it.
        checkpoint: Where to start, for instance a pilot's snapshot; it is not changed.
        batch_sizes: At least two different sizes.
        lr_rule: Learning rate at a batch size; the task's own lr for all where left out.
        num_examples: Examples of each branch; eight steps of the largest size where left out.
        num_seeds: Data orders; the interval is over these.
        seed: Of the first data order.
        device: Where to train.
        level: Nominal coverage.
        timer: Seconds.

    Raises:
        InputError: If there are fewer than two sizes or seeds.
        NotEnoughEvidenceError: If no branch made progress, so that nothing can be compared.
    """
    sizes = sorted(set(batch_sizes))
    if len(sizes) < 2:
        raise InputError(f"batch_sizes must hold at least 2 different sizes, got {list(batch_sizes)}")
    check_int("num_seeds", num_seeds, at_least=2, way_out="an interval needs repeats")
    budget = num_examples or 8 * sizes[-1]
    rule: LrRule = lr_rule or (lambda _: task.optimizer.lr)
    start, random_state = timer(), RandomState.capture()
    try:
        curves = np.array(
            [
                [_branch_losses(task, checkpoint, size, rule(size), budget, seed + run, device) for size in sizes]
                for run in range(num_seeds)
            ]
        )
    finally:
        random_state.restore()
    final = curves[:, :, -1]
    return Branch(
        batch_sizes=tuple(sizes),
        lrs=tuple(rule(size) for size in sizes),
        losses=tuple(float(value) for value in final.mean(axis=0)),
        standard_errors=tuple(_standard_error(column) for column in final.T),
        critical_batch_size=_critical_batch_size(sizes, curves, level),
        num_examples=budget,
        num_steps=num_seeds * sum(max(1, budget // size) for size in sizes),
        num_seeds=num_seeds,
        total_examples=num_seeds * sum(max(1, budget // size) * size for size in sizes),
        seconds=timer() - start,
    )


def _branch_losses(
    task: Task, checkpoint: Snapshot, size: int, lr: float, budget: int, seed: int, device: torch.device | str
) -> list[float]:
    """Loss on the sample at the start and after each of ``NUM_CHECKS`` equal parts of the branch."""
    model, optimizer = checkpoint.restore(task, replace(task.optimizer, lr=lr), device)
    torch.manual_seed(seed)
    sampler = EpochSampler(task.num_train, 7919 + seed)
    order = torch.randperm(task.num_train, generator=torch.Generator().manual_seed(JUDGE_SEED))
    judge = to_device(fetch(task.train, order[:MAX_JUDGES]), torch.device(device))
    losses = [_loss(task, model, judge)]
    num_steps = max(1, budget // size)
    for part in range(NUM_CHECKS):
        steps = (part + 1) * num_steps // NUM_CHECKS - part * num_steps // NUM_CHECKS
        train_steps(task, model, optimizer, sampler, batch_size=size, num_steps=steps)
        losses.append(_loss(task, model, judge))
    return losses


def _loss(task: Task, model: nn.Module, judge: Batch) -> float:
    model.eval()
    value = mean_loss(model, task.loss, list(split_batch(judge, task.evaluation_batch_size)))
    model.train()
    return value if math.isfinite(value) else math.inf


def _critical_batch_size(sizes: Sequence[int], curves: np.ndarray, level: float) -> Interval:
    """Geometric mean over seeds of the critical batch size that best explains how far each branch got."""
    # One yardstick for all seeds: the mean curve of the smallest size, made to fall, since noise can only blur it.
    yardstick = np.minimum.accumulate(curves[:, 0].mean(axis=0))
    if not yardstick[-1] < yardstick[0]:
        raise NotEnoughEvidenceError(
            f"not enough evidence: the branch at batch size {sizes[0]} did not lower the loss "
            f"({yardstick[0]:g}); branch from an earlier checkpoint or for more examples"
        )
    grid = np.geomspace(sizes[0] / RANGE, sizes[-1] * RANGE, 800)
    expected = np.log((1 + sizes[0] / grid)[:, None] / (1 + np.array(sizes[1:])[None, :] / grid[:, None]))
    logs = []
    for final in curves[:, 1:, -1]:
        progress = np.log([_progress(yardstick, loss) for loss in final])
        logs.append(math.log(grid[((expected - progress) ** 2).sum(axis=1).argmin()]))
    mean, count = float(np.mean(logs)), len(logs)
    half = student_quantile(level, count - 1) * float(np.std(logs, ddof=1)) / math.sqrt(count)
    value = math.exp(mean)
    # What lies outside the sizes tried is not measured: there the interval has no end on that side.
    low = math.exp(mean - half) if value > sizes[0] / 2 else 0.0
    high = _exp(mean + half) if value < 4 * sizes[-1] else math.inf
    return Interval(value=value, low=min(low, value), high=max(high, value), level=level)


def _progress(yardstick: np.ndarray, loss: float) -> float:
    """Part of the yardstick's examples after which it stood at ``loss``, between a hundredth and all."""
    where = np.linspace(0.0, 1.0, len(yardstick))
    return float(np.clip(np.interp(-loss, -yardstick, where), 0.01, 1.0))


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if np.isfinite(values).all() else math.inf


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
