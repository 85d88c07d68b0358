"""The critical batch size measured directly: train on from one checkpoint at several batch sizes and compare.

Source: Merrill et al. (2025), arXiv:2505.23971 (branched training), for the largest batch size that does no harm. Beside it the
hyperbola ``examples(B) = E_min (1 + B / B_crit)`` of McCandlish et al. (2018) is fitted to how far each branch got.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from batchwright.core.batches import Batch, split_batch, tensors_of, to_device
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError, NotEnoughEvidenceError
from batchwright.core.objectives import mean_loss
from batchwright.core.preserve import RandomState
from batchwright.core.statistics import Interval, student_quantile
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.harmless import largest_harmless
from batchwright.measure.snapshot import Snapshot, train_steps
from batchwright.tasks.task import OptimizerSpec, Task

Rule = Callable[[int], float]
NUM_CHECKS = 8
# A branch's loss is an average over its last checks in which each counts half of the next: one alone swings with the last batches.
SMOOTHED, SMOOTHING = 4, 0.5
# Tolerance where none is given: this part of what the smallest size gained. Losses of tasks have no common scale.
HARM = 0.1
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
        smoothed_losses: The same averaged over the last checks of each branch, the late ones most.
        critical_batch_size: Fitted over all sizes, in examples; geometric mean over seeds with its interval.
        largest_harmless: Largest batch size whose smoothed loss is not worse than that of the smallest size by more than ``tolerance``,
            in examples, as `measure.harmless.largest_harmless` defines it; at least the smallest size tried, and ``inf`` where
            it lies beyond the largest.
        tolerance: In units of the loss.
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
    smoothed_losses: tuple[float, ...]
    critical_batch_size: Interval
    largest_harmless: Interval
    tolerance: float
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
    lr_rule: Rule | None = None,
    beta2_rule: Rule | None = None,
    tolerance: float | None = None,
    num_examples: int | None = None,
    num_seeds: int = 3,
    num_judges: int = MAX_JUDGES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    level: float = 0.95,
    timer: Callable[[], float] = time.perf_counter,
) -> Branch:
    """Train on from ``checkpoint`` at each batch size for the same number of examples: the critical and the largest harmless size.

    The smallest size is the yardstick. Where its own loss curve passes the final loss of a larger size tells how many examples
    the larger one wasted, which gives the critical size; by how much the larger one's loss is worse gives the largest harmless one. All
    sizes see the same examples in the same order, seed by seed, and are judged by the same sample, so what these do to the loss
    cancels in the comparison.

    Args:
        task: The training job. A fixed sample of its training set judges, in eval mode: the critical batch size is about optimization,
            and an evaluation loss near its floor tells nothing of it.
        checkpoint: Where to start, for instance a pilot's snapshot; it is not changed.
        batch_sizes: At least two different sizes.
        lr_rule: Learning rate at a batch size, as `planning.laws.scale_lr` gives it; the task's own lr for all where left out.
        beta2_rule: Decay of the squared gradients of Adam-type optimizers at a batch size; the task's own where left out.
        tolerance: Loss by which a batch size may be worse and still count as harmless; a tenth of what the smallest size gained in its
            branch where left out.
        num_examples: Examples of each branch; eight steps of the largest size where left out.
        num_seeds: Data orders; the intervals are over these.
        num_judges: Size of the sample that judges.
        seed: Of the first data order.
        device: Where to train.
        level: Nominal coverage.
        timer: Seconds.

    Raises:
        InputError: If there are fewer than two sizes or seeds, or the tolerance is not above 0.
        NotEnoughEvidenceError: If the smallest size made no progress, so that nothing can be compared.
    """
    sizes = sorted(set(batch_sizes))
    if len(sizes) < 2:
        raise InputError(f"batch_sizes must hold at least 2 different sizes, got {list(batch_sizes)}")
    check_int("num_seeds", num_seeds, at_least=2, way_out="an interval needs repeats")
    check_int("num_judges", num_judges, at_least=1)
    if tolerance is not None:
        check_number("tolerance", tolerance, above=0.0)
    budget = num_examples or 8 * sizes[-1]
    specs = [_spec(task.optimizer, size, lr_rule, beta2_rule) for size in sizes]
    start, random_state = timer(), RandomState.capture()
    try:
        judge = _judge(task, num_judges, torch.device(device))
        curves = np.array(
            [
                [
                    # Only the yardstick's whole curve is needed.
                    _branch_losses(
                        task,
                        checkpoint,
                        size,
                        spec,
                        budget,
                        seed + run,
                        judge,
                        0 if size == sizes[0] else NUM_CHECKS - SMOOTHED,
                    )
                    for size, spec in zip(sizes, specs, strict=True)
                ]
                for run in range(num_seeds)
            ]
        )
    finally:
        random_state.restore()
    final, smoothed = curves[:, :, -1], curves[:, :, -SMOOTHED:] @ _smoothing_weights()
    critical = _critical_batch_size(sizes, curves, level)
    harmless, allowed = _largest_harmless(sizes, smoothed, curves[:, 0, 0], tolerance, level)
    return Branch(
        batch_sizes=tuple(sizes),
        lrs=tuple(spec.lr for spec in specs),
        losses=tuple(float(value) for value in final.mean(axis=0)),
        standard_errors=tuple(_standard_error(column) for column in final.T),
        smoothed_losses=tuple(float(value) for value in smoothed.mean(axis=0)),
        critical_batch_size=critical,
        largest_harmless=harmless,
        tolerance=allowed,
        num_examples=budget,
        num_steps=num_seeds * sum(max(1, budget // size) for size in sizes),
        num_seeds=num_seeds,
        total_examples=num_seeds * sum(max(1, budget // size) * size for size in sizes),
        seconds=timer() - start,
    )


def _spec(base: OptimizerSpec, size: int, lr_rule: Rule | None, beta2_rule: Rule | None) -> OptimizerSpec:
    return replace(
        base,
        lr=lr_rule(size) if lr_rule else base.lr,
        beta2=beta2_rule(size) if beta2_rule and base.name != "sgd" else base.beta2,
    )


def _judge(task: Task, num_judges: int, device: torch.device) -> Batch:
    order = torch.randperm(task.num_train, generator=torch.Generator().manual_seed(JUDGE_SEED))
    return to_device(fetch(task.train, order[:num_judges]), device)


def _branch_losses(
    task: Task,
    checkpoint: Snapshot,
    size: int,
    spec: OptimizerSpec,
    budget: int,
    seed: int,
    judge: Batch,
    first_check: int,
) -> list[float]:
    """Loss on the sample at the start and after each of ``NUM_CHECKS`` equal parts of the branch; NaN up to ``first_check``."""
    device = next(iter(tensors_of(judge))).device
    model, optimizer = checkpoint.restore(task, spec, device)
    torch.manual_seed(seed)
    sampler = EpochSampler(task.num_train, 7919 + seed)
    losses = [_loss(task, model, judge) if first_check == 0 else math.nan]
    num_steps = max(1, budget // size)
    for part in range(NUM_CHECKS):
        steps = (part + 1) * num_steps // NUM_CHECKS - part * num_steps // NUM_CHECKS
        train_steps(task, model, optimizer, sampler, batch_size=size, num_steps=steps)
        losses.append(_loss(task, model, judge) if part >= first_check else math.nan)
    return losses


def _loss(task: Task, model: nn.Module, judge: Batch) -> float:
    model.eval()
    value = mean_loss(model, task.loss, list(split_batch(judge, task.evaluation_batch_size)))
    model.train()
    return value if math.isfinite(value) else math.inf


def _smoothing_weights() -> np.ndarray:
    weights = SMOOTHING ** np.arange(SMOOTHED)[::-1]
    return np.asarray(weights / weights.sum())


def _largest_harmless(
    sizes: Sequence[int], smoothed: np.ndarray, start: np.ndarray, tolerance: float | None, level: float
) -> tuple[Interval, float]:
    """The largest harmless size and the tolerance in units of the loss, from smoothed losses ``(seeds, sizes)``."""
    gained = start - smoothed[:, 0]
    if not (np.isfinite(gained).all() and gained.mean() > 0):
        raise NotEnoughEvidenceError(
            f"not enough evidence: the branch at batch size {sizes[0]} did not lower the loss; branch from an earlier checkpoint, "
            "for more examples or with a smaller lr"
        )
    # Where the tolerance is a part of what was gained it has each seed's own error, and the interval is to hold it.
    allowed = HARM * gained if tolerance is None else np.full(len(smoothed), tolerance)
    margins = smoothed - smoothed[:, :1] - allowed[:, None]
    return largest_harmless(sizes, margins, level=level), float(allowed.mean())


def _critical_batch_size(sizes: Sequence[int], curves: np.ndarray, level: float) -> Interval:
    """Critical batch size of the hyperbola that best explains how far the branches got, with a jackknife over seeds.

    The yardstick is the mean curve of the smallest size over the seeds, so each seed's share in it must be in the interval as well
    as in the progress that is read off it: leaving a seed out leaves it out of both.
    """
    count = len(curves)
    mean = _log_critical(sizes, curves)
    left_out = np.array([_log_critical(sizes, np.delete(curves, seed, axis=0)) for seed in range(count)])
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    half = student_quantile(level, count - 1) * error
    value = math.exp(mean)
    # What lies outside the sizes tried is not measured: there the interval has no end on that side.
    low = math.exp(mean - half) if value > sizes[0] / 2 else 0.0
    high = _exp(mean + half) if value < 4 * sizes[-1] else math.inf
    return Interval(value=value, low=min(low, value), high=max(high, value), level=level)


def _log_critical(sizes: Sequence[int], curves: np.ndarray) -> float:
    """Logarithm of the critical batch size, mean over seeds, against one yardstick of them all."""
    # Made to fall, since noise can only blur it.
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
    return float(np.mean(logs))


def _progress(yardstick: np.ndarray, loss: float) -> float:
    """Part of the yardstick's examples after which it stood at ``loss``, between a hundredth and all."""
    where = np.linspace(0.0, 1.0, len(yardstick))
    return float(np.clip(np.interp(-loss, -yardstick, where), 0.01, 1.0))


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if np.isfinite(values).all() else math.inf


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
