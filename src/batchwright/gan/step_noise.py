"""Noise over signal of one step of a loss that is no mean over examples, and the batch size at which the two are equal.

The squared MMD of a batch is a U-statistic of pairs: examples do not have losses of their own, so neither a per-example gradient
nor the noise scale ``tr(Sigma) / |G|^2`` of McCandlish et al. (2018), arXiv:1812.06162, is defined. What that theory uses of it is
the ratio

    r(B) = V(B) / |G_B|^2,    V(B) = E |g_B - G_B|^2,    G_B = E g_B,

of the gradient ``g_B`` of a batch, and the size at which ``r(B) = 1``. Of a mean over examples ``r(B) = tr(Sigma) / (B |G|^2)``,
so that size *is* the noise scale; here it is taken as its definition. ``V`` and ``G`` are measured from whole batches: each is one
"example" of `measure.noise_scale`.

Between sizes: by Hoeffding's decomposition the gradient of an unbiased squared MMD of batches of ``B`` real and ``B`` generated
points has a variance that is a sum of terms ``a / B``, ``b / B^2`` and ``c / (B (B - 1))`` with ``a, b, c >= 0``, and one mean for
all ``B``. Hence ``B r(B)`` never grows with ``B`` and ``B (B - 1) r(B)`` never falls, which brackets the size at which ``r = 1``
from one measured ``r(B)`` without a fit: between ``B r`` and the root ``C`` of ``C (C - 1) = B (B - 1) r``. The biased, rooted and
normalised losses follow this in the leading orders only.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.measure import noise_scale

Draw = Callable[[int], tuple[Tensor, Tensor]]
BatchLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepNoise:
    """Noise over signal of the gradient of one batch.

    Attributes:
        batch_size: ``B``: real points, and generated points, of a batch.
        ratio: ``V(B) / |G_B|^2`` with Fieller's interval; unbounded above where the mean gradient is not resolved.
        variance: Unbiased estimate of ``V(B)``.
        grad_sq_norm: Unbiased estimate of ``|G_B|^2``; may be negative.
        num_batches: Independent batches measured.
        seconds: Of a gradient, by the clock that was given, over all batches; NaN without one.
    """

    batch_size: int
    ratio: Interval
    variance: float
    grad_sq_norm: float
    num_batches: int
    seconds: float

    @property
    def resolved(self) -> bool:
        """Whether the ratio is bounded on both sides."""
        return math.isfinite(self.ratio.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualSize:
    """The batch size at which noise and signal of one step are equal.

    Attributes:
        size: In points, with its interval; ``inf`` where nothing bounds it.
        points: What was measured, by batch size.
        first_order: Share of the variance at the measured size nearest to ``size`` that falls as ``1 / B``, as that of a mean over
            examples does; NaN where the fit is not possible.
    """

    size: Interval
    points: tuple[StepNoise, ...]
    first_order: float

    @property
    def resolved(self) -> bool:
        """Whether the size is bounded on both sides."""
        return math.isfinite(self.size.high)


def step_noise(
    model: nn.Module,
    loss: BatchLoss,
    draw: Draw,
    *,
    batch_size: int,
    num_batches: int = 40,
    divide_by: Mapping[str, Tensor] | None = None,
    level: float = 0.95,
    clock: Callable[[], float] | None = None,
) -> StepNoise:
    """Measure noise and signal of the gradient of a whole batch, at the present parameters; the model is left as it was.

    Args:
        model: Holds the parameters by which the gradient is taken.
        loss: Loss of one whole batch, of real points and noise as ``draw`` gives them.
        draw: ``B`` points of each, anew and independently at each call.
        batch_size: ``B``.
        num_batches: Whole batches, an even number of at least 8; the interval is of theirs.
        divide_by: By what gradients are divided first, by parameter name, as the optimizer will do.
        level: Nominal coverage.
        clock: Gives seconds.

    Raises:
        InputError: If there are too few batches.
    """
    check_int("batch_size", batch_size, at_least=2)
    check_int("num_batches", num_batches, at_least=8)

    def of_batches(_: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        return torch.stack([loss(real, noise) for real, noise in zip(*pair, strict=True)])

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(num_batches // 2):
            drawn = [draw(batch_size) for _ in range(2)]
            yield torch.stack([real for real, _ in drawn]), torch.stack([noise for _, noise in drawn])

    start = clock() if clock is not None else math.nan
    found = noise_scale(model, of_batches, pairs(), num_micro_batches=2, divide_by=divide_by, level=level)
    spent = clock() - start if clock is not None else math.nan
    return StepNoise(
        batch_size=batch_size,
        ratio=found.interval,
        variance=found.trace,
        grad_sq_norm=found.grad_sq_norm,
        num_batches=found.num_examples,
        seconds=spent / found.num_examples,
    )


def equal_size(points: Sequence[StepNoise]) -> EqualSize:
    """The batch size at which noise equals signal, from ratios measured at one or more sizes.

    The interval is the bracket of the module's text, of both ends of the ratio at the measured size where it is nearest to one.
    The value is a fit of ``a / B + b / B^2``, ``a, b >= 0``, to all resolved ratios, kept within the interval.

    Raises:
        InputError: If nothing was measured.
    """
    if not points:
        raise InputError("points must hold at least one measured batch size, got none")
    ordered = tuple(sorted(points, key=lambda point: point.batch_size))
    resolved = [point for point in ordered if point.resolved]
    if not resolved:
        # Noise rules at every size: each ratio's lower end bounds the size from below.
        low = max(min(_bracket(point.batch_size, max(point.ratio.low, 0.0))) for point in ordered)
        size = Interval(value=math.inf, low=low, high=math.inf, level=ordered[0].ratio.level)
        return EqualSize(size=size, points=ordered, first_order=math.nan)
    nearest = min(resolved, key=lambda point: abs(math.log(max(point.ratio.value, 1e-12))))
    low = min(_bracket(nearest.batch_size, max(nearest.ratio.low, 0.0)))
    high = max(_bracket(nearest.batch_size, nearest.ratio.high))
    first, second = _fit(resolved)
    value = 0.5 * (first + math.sqrt(first**2 + 4 * second))
    share = first / (first + second / nearest.batch_size) if first + second > 0 else math.nan
    size = Interval(value=min(max(value, low), high), low=low, high=high, level=nearest.ratio.level)
    return EqualSize(size=size, points=ordered, first_order=share)


def _bracket(batch_size: int, ratio: float) -> tuple[float, float]:
    """Where the ratio is one if it falls as ``1/B``, and if it falls as ``1/(B (B - 1))``."""
    return batch_size * ratio, 0.5 * (1 + math.sqrt(1 + 4 * batch_size * (batch_size - 1) * ratio))


def _fit(points: Sequence[StepNoise]) -> tuple[float, float]:
    """Coefficients of ``1/B`` and ``1/B^2``, weighted by the widths of the intervals."""
    from scipy.optimize import nnls

    sizes = np.array([point.batch_size for point in points], dtype=np.float64)
    ratios = np.array([max(point.ratio.value, 0.0) for point in points])
    errors = np.array([max(point.ratio.high - point.ratio.low, 1e-9 * (1 + point.ratio.value)) for point in points])
    if len(points) == 1:
        return float(sizes[0] * ratios[0]), 0.0
    design = np.stack([1 / sizes, 1 / sizes**2], axis=1) / errors[:, None]
    scale = np.linalg.norm(design, axis=0)
    found, _ = nnls(design / scale, ratios / errors)
    return float(found[0] / scale[0]), float(found[1] / scale[1])
