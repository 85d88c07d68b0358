"""Gradient noise scale at one parameter point, with an interval.

Source: McCandlish et al. (2018), arXiv:1812.06162, eq. (2.9) and appendix A.1. Deviation: the appendix compares two batch
sizes; here all micro-batches, or all examples, at the point are pooled, which leaves out the squared noise of each single batch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError, NotEnoughEvidenceError
from batchwright.core.objectives import Loss
from batchwright.core.preserve import preserved
from batchwright.core.statistics import Interval, jackknife_covariance, ratio_interval, student_quantile
from batchwright.core.vectors import trainable
from batchwright.measure.noise_micro_batches import micro_batch_sums
from batchwright.measure.noise_norm_layers import NormLayerSums, calibrated
from batchwright.measure.noise_per_example import PerExampleSums
from batchwright.measure.noise_sums import NUM_BLOCKS, Array, BatchSums, BlockSums, PooledSums

METHODS = ("micro-batch", "norm-layers", "per-example")


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
    def batches_to_halve(self) -> int:
        """Further batches, as large as these, after which the interval would likely be half as wide.

        Errors are taken to fall as one over the root of the number of batches: about three times as many more where the interval is
        narrow, fewer where it is wide. Below 40 batches it comes out narrower than half, because its scatter is known better then.
        Where it is unbounded, ``more_batches``: those that would bound it.
        """
        if not (self.low > 0 and self.resolved):
            return self.more_batches or 3 * self.num_batches
        # The interval is r - h to r + h in the inverse, so 2 h / (r^2 - h^2) wide here: solved for the h of half that width, q.
        r, h = (1 / self.low + 1 / self.high) / 2, (1 / self.low - 1 / self.high) / 2
        q = (self.high - self.low) / 2
        if h <= 0:
            return 0
        halved = (math.sqrt(1 + (q * r) ** 2) - 1) / q
        return math.ceil(self.num_batches * ((h / halved) ** 2 - 1))

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
    divide_by: Mapping[str, Tensor] | None = None,
    level: float = 0.95,
) -> NoiseScale:
    """Estimate the noise scale of the gradient at the model's present parameters.

    Each batch is split into parts. With ``g_j`` the mean gradient of part ``j`` of ``n_j`` examples and ``g`` the mean
    over all ``N``, ``trace = sum_j n_j ||g_j - g||^2 / (M - 1)`` and ``grad_sq_norm = ||g||^2 - trace / N`` are
    unbiased for any sizes. The interval is Fieller's, with the covariance of the two from a jackknife over blocks of batches.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: Independent batches of at least ``num_micro_batches`` examples; one at a time is held.
        method: What a part is. ``micro-batch``: one of ``num_micro_batches`` parts of a batch, at the cost of the batch.
            ``per-example``: an example, by exact norms: the sharpest trace, at up to 1.5 times the cost; examples must not
            depend on each other. ``norm-layers``: the same from the norm layers alone, calibrated on every fourth batch.
        num_micro_batches: Parts of each batch, as equal as its size allows; only for ``micro-batch``.
        divide_by: By what gradients are divided first, by parameter name, as `adam_divisors` gives it; only for ``micro-batch``.
        level: Nominal coverage.

    Returns:
        The noise scale; unbounded above where the gradient is not resolved.

    Raises:
        InputError: If there are fewer than two batches, a batch is too small to split, or the method does not fit the model.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> batches = [torch.randn(8, 2) for _ in range(20)]
        >>> noise_scale(model, lambda m, x: m(x).squeeze(1).square(), batches).num_examples
        160
    """
    check_choice("method", method, METHODS)
    if method == "norm-layers":
        check_divisible(method, divide_by)
        check_number("level", level, above=0.0, below=1.0)
        norm_layers = NormLayerSums(model, loss)
        sums = _pooled(model, batches, norm_layers, norm_layers.check_enough)
        return estimate(sums, slice(None), level, combine=calibrated, apart=sums.weighted[1] > 0)
    sums = pooled_sums(model, loss, batches, method, num_micro_batches, divide_by, level)
    return estimate(sums, slice(None), level)


def pooled_sums(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    method: str,
    num_micro_batches: int,
    divide_by: Mapping[str, Tensor] | None,
    level: float,
) -> PooledSums:
    """The sums of `noise_scale` by parameter, from one pass over the batches; arguments and errors as there."""
    check_choice("method", method, ("micro-batch", "per-example"))
    check_int("num_micro_batches", num_micro_batches, at_least=1)
    check_number("level", level, above=0.0, below=1.0)
    if method == "micro-batch":
        return _pooled(model, batches, lambda batch: micro_batch_sums(model, loss, batch, num_micro_batches, divide_by))
    check_divisible(method, divide_by)
    return _pooled(model, batches, PerExampleSums(model, loss))


def check_divisible(method: str, divide_by: Mapping[str, Tensor] | None) -> None:
    """Check that ``divide_by`` is left out where only norms are known.

    Raises:
        InputError: Otherwise.
    """
    if divide_by is not None:
        raise InputError(
            f"divide_by must be left out with method={method!r}, where only norms of gradients are known, got "
            f"{len(divide_by)} tensors; use method='micro-batch'"
        )


def _pooled(
    model: nn.Module,
    batches: Iterable[Batch],
    sums_of: Callable[[Batch], BatchSums],
    check_enough: Callable[[], None] | None = None,
) -> PooledSums:
    blocks = BlockSums(trainable(model))
    with preserved(model):
        for batch in batches:
            blocks.add(sums_of(batch))
    if check_enough is not None:
        check_enough()
    return blocks.pooled()


def estimate(
    sums: PooledSums,
    rows: slice | list[int],
    level: float,
    *,
    combine: Callable[[Array], Array] | None = None,
    apart: NDArray[np.bool_] | None = None,
) -> NoiseScale:
    """The noise scale over the parameters in ``rows``.

    Args:
        sums: Sums over blocks of batches.
        rows: Which parameters.
        level: Nominal coverage.
        combine: Makes one sum of squares of the rows of ``sums.weighted``; their sum when left out.
        apart: Blocks that have another variance than the rest, such as those that also calibrate; none when left out.
    """
    combine = combine or (lambda weighted: np.asarray(weighted.sum(axis=0)))
    weighted, parts, sizes = sums.weighted[rows], sums.num_parts, sums.num_examples
    of_all = weighted.sum(axis=1, keepdims=True)
    found = unbiased(sums.whole[rows].sum(), combine(of_all)[0], parts.sum(), sizes.sum())
    left_out = unbiased(
        sums.without[rows].sum(axis=0), combine(of_all - weighted), parts.sum() - parts, sizes.sum() - sizes
    )
    covariance = jackknife_covariance(left_out.T)
    trace, grad_sq_norm = (float(value) for value in found)
    dof = float(len(parts) - 1) if apart is None else _effective_dof(left_out, trace, grad_sq_norm, apart)
    interval = ratio_interval(trace, grad_sq_norm, covariance, dof=dof, level=level)
    inverse_error = float(jackknife_covariance((left_out[1] / left_out[0])[:, None])[0, 0]) ** 0.5
    return NoiseScale(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        trace=trace,
        grad_sq_norm=grad_sq_norm,
        num_examples=int(sizes.sum()),
        num_batches=sums.num_batches,
        more_batches=0
        if math.isfinite(interval.high)
        else batches_to_resolve(grad_sq_norm, covariance[1, 1] ** 0.5, sums.num_batches, dof, level),
        level=level,
        inverse_standard_error=inverse_error,
    )


def _effective_dof(left_out: Array, trace: float, grad_sq_norm: float, apart: NDArray[np.bool_]) -> float:
    """Welch and Satterthwaite's degrees of freedom of the ratio's variance, of which two sets of blocks give unlike shares."""
    deviations = left_out - left_out.mean(axis=1, keepdims=True)
    # Of trace - ratio * grad_sq_norm, which Fieller's interval compares with zero; of the gradient alone where it is unresolved.
    of_ratio = deviations[0] * grad_sq_norm - deviations[1] * trace if grad_sq_norm > 0 else deviations[1]
    sets = [of_ratio[chosen] for chosen in (apart, ~apart) if chosen.sum() > 1]
    shares = np.array([(each**2).sum() for each in sets])
    counts = np.array([len(each) - 1 for each in sets])
    return float(shares.sum() ** 2 / (shares**2 / counts).sum()) if shares.sum() > 0 else float(counts.sum())


def unbiased(sum_sq_norm: object, weighted: object, num_parts: object, num_examples: object) -> Array:
    """Trace and squared gradient norm from sums over parts; the arguments may be arrays of one shape."""
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
