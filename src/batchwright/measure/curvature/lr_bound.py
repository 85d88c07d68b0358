"""How far the learning rate may be raised before the curvature at a point of training makes its steps grow.

Two limits of SGD with momentum, the smaller of which counts: mean-square stability (`mean_square`) for the curvature that steps
meet, split into mean and noise, the noise carried to the batch size in question as ``(N - B)/(B (N - 1))``; and ``2(1+b)/lr`` for the
largest eigenvalue, which counts also where no gradient has yet turned to it. Deviation: both are laws of a quadratic. In training the
curvature follows the learning rate, so the bound is a gauge; docs/decisions/0006-lr-bound.md says how near to it runs are lost.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from batchwright.core.batches import Batch, to_device
from batchwright.core.checks import check_number
from batchwright.core.preserve import RandomState
from batchwright.core.statistics import Interval
from batchwright.data.access import fetch
from batchwright.measure.curvature.batch_sharpness import batch_sharpness
from batchwright.measure.curvature.gradient_sharpness import interaction_aware_sharpness
from batchwright.measure.curvature.mean_square import max_stable_lr, thresholds
from batchwright.measure.curvature.sharpness import sharpness
from batchwright.measure.snapshot import Snapshot
from batchwright.tasks.task import Task

NUM_BATCHES, TOLERANCE = 8, 0.05
# The largest eigenvalue is found on a few of the batches, for a product with them is dear.
TOP_BATCHES, MAX_HVPS = 4, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class LrBound:
    """Curvature at one point of training, and the learning rates that it allows.

    Attributes:
        step: Optimizer steps before the point.
        batch_size: Examples in a measured batch.
        num_train: Examples of the training set.
        momentum: Of the steps whose learning rate is bounded.
        nesterov: Whether they are Nesterov's in torch's form.
        batch_sharpness: At ``batch_size``, in units of one over the learning rate.
        mean_curvature: Interaction-aware sharpness at ``batch_size``.
        sharpness: Largest Hessian eigenvalue of a few batches; few examples overstate it.
        sharpness_converged: Whether it was found to its tolerance; if not it is a lower bound.
        num_examples: Examples that were measured.
        seconds: Wall time.
    """

    step: int
    batch_size: int
    num_train: int
    momentum: float
    nesterov: bool
    batch_sharpness: Interval
    mean_curvature: Interval
    sharpness: float
    sharpness_converged: bool
    num_examples: int
    seconds: float

    def max_lr(self, batch_size: int) -> Interval | None:
        """Largest stable learning rate at a batch size; its interval is that of the two measured curvatures.

        Returns:
            None where no curvature is positive, so that nothing bounds the learning rate.

        Raises:
            InputError: If the batch is empty or larger than the training set.
        """
        check_number("batch_size", batch_size, at_least=1, at_most=self.num_train)
        total, mean = self.batch_sharpness, self.mean_curvature
        value = self._max_lr(batch_size, total.value, mean.value)
        ends = itertools.product((total.low, total.value, total.high), (mean.low, mean.value, mean.high))
        found = [self._max_lr(batch_size, *pair) for pair in ends]
        if math.isinf(value):
            return None
        return Interval(value=value, low=min(found), high=max(found), level=total.level)

    def _max_lr(self, batch_size: int, total: float, mean: float) -> float:
        limit = math.inf
        if self.sharpness > 0:
            limit = thresholds(lr=1.0, momentum=self.momentum, nesterov=self.nesterov)[1] / self.sharpness
        if not total > 0 or not math.isfinite(total):
            return limit
        # Without a positive mean all of batch sharpness is noise, which alone bounds the learning rate as a small mean does.
        mean = min(max(mean, 1e-6 * total), total) if math.isfinite(mean) else total
        noise = (total - mean) * _variance(batch_size, self.num_train) / _variance(self.batch_size, self.num_train)
        return min(
            limit,
            max_stable_lr(
                curvature_mean=mean, curvature_variance=noise * mean, momentum=self.momentum, nesterov=self.nesterov
            ),
        )


def lr_bound(
    task: Task,
    snapshot: Snapshot,
    *,
    num_batches: int = NUM_BATCHES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    timer: Callable[[], float] = time.perf_counter,
) -> LrBound | None:
    """Measure what bounds the learning rate of a task at a point of its training, at its default batch size.

    Args:
        task: The training job.
        snapshot: The point; it is not changed.
        num_batches: Batches for each of the two curvatures along gradients; of these at most four for the largest eigenvalue.
        seed: Of the batches.
        device: Where to measure.
        timer: Seconds.

    Returns:
        The bound; None for an optimizer other than SGD, whose edge is not known.
    """
    spec = task.optimizer
    if spec.name != "sgd":
        return None
    start, where = timer(), torch.device(device)
    size = min(task.batch_size, max(1, task.num_train - 1))
    generator = torch.Generator().manual_seed(seed + 2)

    def batches(number: int = num_batches) -> Iterator[Batch]:
        for _ in range(number):
            indices = torch.randperm(task.num_train, generator=generator)[:size]
            yield to_device(fetch(task.train, indices), where)

    options: dict[str, Any] = {
        "min_batches": min(4, num_batches),
        "max_batches": num_batches,
        "relative_error": TOLERANCE,
    }
    random_state = RandomState.capture()
    try:
        model, _ = snapshot.restore(task, spec, where)
        total = batch_sharpness(model, task.loss, batches(), **options)
        mean = interaction_aware_sharpness(model, task.loss, batches(), **options)
        top = sharpness(
            model,
            task.loss,
            list(batches(min(num_batches, TOP_BATCHES))),
            tol=TOLERANCE,
            max_hvps=MAX_HVPS,
            high_tol=math.inf,  # a lower bound is all that a limit of eight products can promise
        )
    finally:
        random_state.restore()
    return LrBound(
        step=snapshot.num_steps,
        batch_size=size,
        num_train=task.num_train,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        batch_sharpness=total.interval,
        mean_curvature=mean.interval,
        sharpness=top.value,
        sharpness_converged=top.converged,
        num_examples=total.num_examples + mean.num_batches * size + top.num_examples,
        seconds=timer() - start,
    )


def _variance(batch_size: int, num_train: int) -> float:
    """Variance of a batch's mean over that of one example, drawn without replacement."""
    return (num_train - batch_size) / (batch_size * max(num_train - 1, 1))
