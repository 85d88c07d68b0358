"""Gradient noise scale at one parameter point, with an interval.

Source: McCandlish et al. (2018), arXiv:1812.06162, eq. (2.9) and appendix A.1. Deviation: the appendix compares two batch
sizes; here all micro-batches at the point are pooled, which leaves out the squared noise of each single batch.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length, split_batch
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError, NotEnoughEvidenceError
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.preserve import preserved
from batchwright.core.statistics import Interval, jackknife_covariance, ratio_interval, student_quantile
from batchwright.core.vectors import dot, gradients, sq_norm, trainable

NUM_BLOCKS = 40
# The block sums are kept for the interval; a large model gets fewer of them rather than more memory.
MAX_BLOCK_BYTES = 2**30
MIN_BLOCKS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScale:
    """Simple noise scale of a gradient with its interval and the two estimates it is made of.

    Attributes:
        value: ``trace / grad_sq_norm``, in examples. ``inf`` when ``grad_sq_norm <= 0``.
        low: Lower end of the interval.
        high: Upper end; ``inf`` when the gradient is not resolved from its noise.
        trace: Unbiased estimate of the trace of the per-example gradient covariance.
        grad_sq_norm: Unbiased estimate of the squared norm of the true gradient; may be negative.
        num_examples: Examples measured.
        num_batches: Batches measured.
        more_batches: Further batches, as large as these, that would likely resolve the gradient; 0 when it is resolved.
        level: Nominal coverage of the interval.
        inverse_standard_error: Standard error of ``grad_sq_norm / trace``, for averages over several points.
    """

    value: float
    low: float
    high: float
    trace: float
    grad_sq_norm: float
    num_examples: int
    num_batches: int
    more_batches: int
    level: float
    inverse_standard_error: float

    @property
    def resolved(self) -> bool:
        """Whether the interval is bounded on both sides."""
        return math.isfinite(self.high)

    @property
    def interval(self) -> Interval:
        """Value and interval alone."""
        return Interval(value=self.value, low=self.low, high=self.high, level=self.level)

    def require(self) -> "NoiseScale":
        """This noise scale, if it is resolved.

        Raises:
            NotEnoughEvidenceError: Otherwise, with the number of batches that would settle it.
        """
        if not self.resolved:
            raise NotEnoughEvidenceError(
                f"not enough evidence: the gradient is not resolved from its noise after {self.num_batches} batches; "
                f"measure about {self.more_batches} more"
            )
        return self


def noise_scale(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    method: str = "micro-batch",
    *,
    num_micro_batches: int = 2,
    level: float = 0.95,
) -> NoiseScale:
    """Estimate the noise scale of the gradient at the model's present parameters.

    Each batch is split into micro-batches. With ``g_j`` the mean gradient of micro-batch ``j`` of ``n_j`` examples and ``g`` the mean
    over all ``N``, ``trace = sum_j n_j ||g_j - g||^2 / (M - 1)`` and ``grad_sq_norm = ||g||^2 - trace / N`` are
    unbiased for any sizes. The interval is Fieller's, with the covariance of the two from a jackknife over blocks of batches.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: Independent batches of at least ``num_micro_batches`` examples; one at a time is held.
        method: ``micro-batch``.
        num_micro_batches: Parts of each batch, as equal as its size allows.
        level: Nominal coverage.

    Returns:
        The noise scale; unbounded above where the gradient is not resolved.

    Raises:
        InputError: If there are fewer than two batches, or a batch is too small to split.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> batches = [torch.randn(8, 2) for _ in range(20)]
        >>> noise_scale(model, lambda m, x: m(x).squeeze(1).square(), batches).num_examples
        160
    """
    check_choice("method", method, ("micro-batch",))
    check_int("num_micro_batches", num_micro_batches, at_least=1)
    check_number("level", level, above=0.0, below=1.0)
    with preserved(model):
        blocks = _Blocks(trainable(model))
        for batch in batches:
            blocks.add(*_micro_batch_gradients(model, loss, batch, num_micro_batches))
    return blocks.noise_scale(level)


def _micro_batch_gradients(
    model: nn.Module, loss: Loss, batch: Batch, num_micro_batches: int
) -> tuple[list[Tensor], Tensor, int, int]:
    """Sum of the per-example gradients of a batch, and ``sum_j n_j ||g_j||^2`` over its micro-batches, their number and size."""
    length = batch_length(batch)
    if length < num_micro_batches:
        raise InputError(
            f"every batch must hold at least num_micro_batches examples, got {length} for {num_micro_batches}; "
            "measure larger batches or split them into fewer parts"
        )
    parameters = trainable(model)
    total: list[Tensor] = []
    weighted = torch.zeros((), dtype=torch.float64, device=parameters[0].device)
    num_parts = 0
    for part in split_batch(batch, math.ceil(length / num_micro_batches)):
        for parameter in parameters:
            parameter.grad = None
        losses = example_losses(model, loss, part)
        losses.sum().backward()
        part_sum = gradients(parameters)
        weighted += sq_norm(part_sum) / len(losses)
        if total:
            torch._foreach_add_(total, part_sum)
        else:
            total = part_sum
        num_parts += 1
    return total, weighted, num_parts, length


class _Blocks:
    """Running sums over blocks of consecutive batches: all that the estimates and their jackknife need."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        # Twice as many blocks as wanted are filled before neighbours are joined, so the number of batches need not be known.
        self._max_blocks = 2 * max(MIN_BLOCKS, min(NUM_BLOCKS, MAX_BLOCK_BYTES // (2 * num_bytes)))
        self._batches_a_block = 1
        self._open = 0
        self._sums: list[list[Tensor]] = []
        self._weighted: list[Tensor] = []
        self._num_parts: list[int] = []
        self._num_examples: list[int] = []
        self._num_batches = 0

    def add(self, total: list[Tensor], weighted: Tensor, num_parts: int, num_examples: int) -> None:
        self._num_batches += 1
        if self._open == 0:
            if len(self._sums) == self._max_blocks:
                self._join_neighbours()
            self._sums.append([tensor.clone() for tensor in total])
            self._weighted.append(weighted)
            self._num_parts.append(num_parts)
            self._num_examples.append(num_examples)
        else:
            torch._foreach_add_(self._sums[-1], total)
            self._weighted[-1] = self._weighted[-1] + weighted
            self._num_parts[-1] += num_parts
            self._num_examples[-1] += num_examples
        self._open = (self._open + 1) % self._batches_a_block

    def _join_neighbours(self) -> None:
        for left, right in zip(self._sums[::2], self._sums[1::2], strict=True):
            torch._foreach_add_(left, right)
        self._sums = self._sums[::2]
        for name in ("_weighted", "_num_parts", "_num_examples"):
            values = getattr(self, name)
            setattr(self, name, [a + b for a, b in zip(values[::2], values[1::2], strict=True)])
        self._batches_a_block *= 2

    def noise_scale(self, level: float) -> NoiseScale:
        num_blocks = len(self._sums)
        if num_blocks < 2 or sum(self._num_parts) - max(self._num_parts) < 2:
            raise InputError(
                f"batches must hold at least 2 batches of 2 micro-batches or 3 of one, got {self._num_batches} batches in "
                f"{sum(self._num_parts)} micro-batches; the interval leaves each batch out once and needs two parts in the rest"
            )
        total = [torch.stack(parts).sum(dim=0) for parts in zip(*self._sums, strict=True)]
        cross = np.array([float(dot(total, block)) for block in self._sums])
        own = np.array([float(sq_norm(block)) for block in self._sums])
        whole = float(sq_norm(total))
        weighted = np.array([float(value) for value in self._weighted])
        parts, sizes = np.array(self._num_parts), np.array(self._num_examples)

        estimate = _unbiased(whole, weighted.sum(), parts.sum(), sizes.sum())
        left_out = _unbiased(
            whole - 2 * cross + own, weighted.sum() - weighted, parts.sum() - parts, sizes.sum() - sizes
        )
        covariance = jackknife_covariance(left_out.T)
        trace, grad_sq_norm = (float(value) for value in estimate)
        dof = num_blocks - 1
        interval = ratio_interval(trace, grad_sq_norm, covariance, dof=dof, level=level)
        inverse_error = float(jackknife_covariance((left_out[1] / left_out[0])[:, None])[0, 0]) ** 0.5
        return NoiseScale(
            value=interval.value,
            low=interval.low,
            high=interval.high,
            trace=trace,
            grad_sq_norm=grad_sq_norm,
            num_examples=int(sizes.sum()),
            num_batches=self._num_batches,
            more_batches=0
            if math.isfinite(interval.high)
            else batches_to_resolve(grad_sq_norm, covariance[1, 1] ** 0.5, self._num_batches, dof, level),
            level=level,
            inverse_standard_error=inverse_error,
        )


def _unbiased(sum_sq_norm: object, weighted: object, num_parts: object, num_examples: object) -> np.ndarray:
    """Trace and squared gradient norm from sums over micro-batches; the arguments may be arrays of one shape."""
    total, squares = np.asarray(sum_sq_norm, dtype=np.float64), np.asarray(weighted, dtype=np.float64)
    count, examples = np.asarray(num_parts, dtype=np.float64), np.asarray(num_examples, dtype=np.float64)
    trace = (squares - total / examples) / (count - 1)
    # E||mean||^2 = ||G||^2 + trace/N, so the plain squared norm is too large by trace/N.
    return np.stack([trace, total / examples**2 - trace / examples])


def batches_to_resolve(grad_sq_norm: float, standard_error: float, num_batches: int, dof: float, level: float) -> int:
    """Further batches after which ``grad_sq_norm`` would stand at twice its quantile of standard errors above zero.

    The standard error is taken to fall as one over the root of the number of batches. A gradient that is smaller than a quarter
    of its error is counted as that quarter: it may need more.
    """
    if math.isnan(grad_sq_norm) or math.isnan(standard_error):
        return 1  # a gradient that is not a number is not settled by any number of batches
    quantile = student_quantile(level, max(dof, 1))
    signal = max(grad_sq_norm, standard_error / 4, 1e-300)
    factor = (2 * quantile * standard_error / signal) ** 2
    return max(1, math.ceil(num_batches * (factor - 1)))


def average_over_points(points: Sequence[NoiseScale], level: float = 0.95) -> Interval:
    """Noise scale of a stretch of training from its values at several points of it.

    The inverses ``grad_sq_norm / trace`` are averaged, so a point at which the gradient is not resolved still takes part with its
    error; the value is the inverse of the average. The points are taken as the stretch that is meant: the interval holds their
    errors, and not how the noise scale changes from one to the next.

    Raises:
        InputError: If there is no point.
    """
    if not points:
        raise InputError("points must hold at least one noise scale, got none")
    inverses = np.array([point.grad_sq_norm / point.trace for point in points])
    errors = np.array([point.inverse_standard_error for point in points])
    mean = float(inverses.mean())
    half = student_quantile(level, NUM_BLOCKS - 1) * float(np.sqrt((errors**2).sum())) / len(points)
    low, high = mean - half, mean + half
    return Interval(
        value=1 / mean if mean > 0 else math.inf,
        low=1 / high if high > 0 else math.inf,
        high=1 / low if low > 0 else math.inf,
        level=level,
    )
