"""Noise scale during training, from the micro-batches that a step is made of anyway.

Source: McCandlish et al. (2018), arXiv:1812.06162, appendix A.1: numerator and denominator are averaged apart, because a ratio of
averages is far less biased than an average of ratios.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from batchwright.core.checks import check_number
from batchwright.core.statistics import Interval, ratio_interval
from batchwright.core.vectors import FlatCopy, gradients


@dataclass(frozen=True, kw_only=True, slots=True)
class StepNoise:
    """Unbiased estimates from the micro-batches of one step.

    Attributes:
        trace: Trace of the per-example gradient covariance.
        grad_sq_norm: Squared norm of the true gradient; often negative for a single step.
    """

    trace: float
    grad_sq_norm: float


class MicroBatchNorms:
    """Collects the squared norms of the micro-batch gradients while they are accumulated into ``.grad``.

    Call `after_micro_batch` after each backward pass of `core.objectives.accumulate_gradient` on empty gradients. One
    copy of the gradient is held; nothing waits for the device before `step_noise`. Each micro-batch
    counts by its own norm, so the estimate is that of all parts.

    Args:
        parameters: Whose gradients are accumulated.
        read: How the gradients are read, where that is not from ``.grad`` as it is; for shards of them all estimates are sums over
            the shards.
        copy: That of an earlier step, to be written over: on a CPU a fresh one costs as much as the arithmetic.

    Attributes:
        copy: Of the gradient; None before the first micro-batch of the first step.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        read: Callable[[], list[Tensor]] | None = None,
        copy: FlatCopy | None = None,
    ) -> None:
        self._read = read or (lambda: gradients(parameters))
        self.copy = copy
        self._sizes: list[int | Tensor] = []
        # Norms of blocks, a list a micro-batch; squared and summed together at the end, in fewer operations.
        self._norms: list[list[Tensor]] = []

    def after_micro_batch(self, num_examples: int | Tensor, accumulated: list[Tensor] | None = None) -> None:
        """Take in the micro-batch of ``num_examples`` examples whose gradient has just been added.

        Args:
            num_examples: In it; where examples have weights the sum of them, of any unit, and the trace is then that of a unit of
                weight.
            accumulated: The gradient that it was added to, parameter by parameter; what ``read`` gives where left out.
        """
        now = self._read() if accumulated is None else accumulated
        if self._sizes:
            # In place, because on a CPU fresh buffers cost more than the arithmetic; the sign does not matter to a norm.
            assert self.copy is not None
            self.copy.subtract_(now)
            self._norms.append(self.copy.block_norms())
            self.copy.copy_(now)
        else:
            if self.copy is not None and self.copy.holds(now):
                self.copy.copy_(now)
            else:
                self.copy = FlatCopy(now)
            self._norms.append(self.copy.block_norms())
        self._sizes.append(num_examples)

    def step_noise(self) -> StepNoise | None:
        """The estimates of this step, or None where fewer than two micro-batches had a weight; ``.grad`` may be clipped by now."""
        sizes = [float(size) for size in self._sizes]
        if self.copy is None:
            return None
        kinds = zip(*self._norms, self.copy.block_norms(), strict=True)
        sums = [torch.stack(norms).double().square_().sum(dim=1).tolist() for norms in kinds]
        *sq_norms, mean_sq_norm = (sum(parts) for parts in zip(*sums, strict=True))
        return noise_of_parts(sq_norms, mean_sq_norm, sizes)


def noise_of_parts(sq_norms: Sequence[float], mean_sq_norm: float, sizes: Sequence[float]) -> StepNoise | None:
    """The estimates of a step from the squared norms of what each micro-batch added to the gradient, and of the whole gradient.

    Args:
        sq_norms: One a micro-batch, of ``(n_j / B) g_j``.
        mean_sq_norm: Of their sum.
        sizes: ``n_j``, in examples or units of weight; a micro-batch of none, padding alone, has no gradient to compare.

    Returns:
        The estimates; None where fewer than two micro-batches had a weight.
    """
    num_parts = sum(size > 0 for size in sizes)
    if num_parts < 2:
        return None
    batch_size = sum(sizes)
    # So n_j ||g_j||^2 = ||part_j||^2 B^2 / n_j.
    weighted = sum(sq_norm * batch_size**2 / size for sq_norm, size in zip(sq_norms, sizes, strict=True) if size > 0)
    trace = (weighted - batch_size * mean_sq_norm) / (num_parts - 1)
    return StepNoise(trace=trace, grad_sq_norm=mean_sq_norm - trace / batch_size)


@dataclass(frozen=True, slots=True)
class RunningNoiseScale:
    """Debiased moving averages of trace and squared gradient norm, with an interval from their own scatter.

    Attributes:
        decay: Weight kept from one measured step to the next.
        weight: Sum of the weights so far.
        sq_weight: Sum of their squares, from which the effective number of steps follows.
        sums: Weighted sums of trace ``t``, squared norm ``g``, ``tt``, ``gg`` and ``tg``.
    """

    decay: float = 0.95
    weight: float = 0.0
    sq_weight: float = 0.0
    sums: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_number("decay", self.decay, at_least=0.0, below=1.0)

    def update(self, noise: StepNoise) -> "RunningNoiseScale":
        """The averages after one more step."""
        new = 1 - self.decay
        t, g = noise.trace, noise.grad_sq_norm
        values = (t, g, t * t, g * g, t * g)
        return RunningNoiseScale(
            self.decay,
            self.decay * self.weight + new,
            self.decay**2 * self.sq_weight + new**2,
            tuple(self.decay * old + new * value for old, value in zip(self.sums, values, strict=True)),
        )

    @property
    def num_effective(self) -> float:
        """Number of equally weighted steps that would give the same variance of the mean."""
        return self.weight**2 / self.sq_weight if self.sq_weight > 0 else 0.0

    @property
    def trace(self) -> float:
        """Average trace; NaN before the first step."""
        return self.sums[0] / self.weight if self.weight > 0 else math.nan

    @property
    def grad_sq_norm(self) -> float:
        """Average squared gradient norm; NaN before the first step, and possibly negative."""
        return self.sums[1] / self.weight if self.weight > 0 else math.nan

    @property
    def status(self) -> str:
        """``no interval yet``, ``not resolved yet`` (the gradient from its noise, at 95 %) or ``resolved``."""
        interval = self.interval()
        if interval is None:
            return "no interval yet"
        return "resolved" if math.isfinite(interval.high) else "not resolved yet"

    @property
    def resolved(self) -> bool:
        """Whether the 95 % interval is bounded on both sides."""
        return self.status == "resolved"

    def interval(self, level: float = 0.95) -> Interval | None:
        """Noise scale with its interval, unbounded above while not resolved; None before three effective steps."""
        count = self.num_effective
        if count < 3:
            return None
        t, g, tt, gg, tg = (value / self.weight for value in self.sums)
        covariance = np.array([[tt - t * t, tg - t * g], [tg - t * g, gg - g * g]]) / (count - 1)
        return ratio_interval(t, g, covariance, dof=count - 1, level=level) if t > 0 else None

    def to_state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        return {"decay": self.decay, "weight": self.weight, "sq_weight": self.sq_weight, "sums": list(self.sums)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "RunningNoiseScale":
        """The averages that `to_state` described, exactly."""
        return cls(state["decay"], state["weight"], state["sq_weight"], tuple(state["sums"]))
