"""The stability gauge: where batch sharpness stands against the levels at which training with momentum settles or spikes.

Source: Andreyev et al. (2026), arXiv:2604.14108: with momentum ``b`` batch sharpness settles at ``2(1-b)/lr`` when batches are
small and at ``2(1+b)/lr`` when they are large, Nesterov's at ``2(1+b)/((1+2b) lr)``. Between them: `edge_level`. Deviation: none in
the levels; the paper uses batch sharpness with momentum as an empirical diagnostic, and this gauge is no proof either.
"""

import math
from dataclasses import dataclass

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.measure.curvature.batch_sharpness import BatchSharpness
from batchwright.measure.curvature.edge_level import NoiseShare, edge_level, noise_share
from batchwright.measure.curvature.mean_square import check_momentum, thresholds, torch_lr

# Plateaus of trained networks lie within about a tenth of their level, so nearer than that counts as the edge itself.
EDGE_WIDTH = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """Batch sharpness against its stability levels; all in units of one over the learning rate.

    Attributes:
        low: ``2(1-b)/lr``: the level at which small batches settle.
        high: ``2(1+b)/lr``, Nesterov's ``2(1+b)/((1+2b) lr)``: the level of large batches.
        headroom: ``1 - batch_sharpness / threshold``: the part of the threshold that is left; zero at the edge, negative past it.
        headroom_low: Lower end, from the interval of batch sharpness and the range of the threshold.
        headroom_high: Upper end.
        threshold: The level that applies at this batch size; the cautious end of its range where that is not known.
        threshold_low: Lower end of the range in which the level that applies must lie.
        threshold_high: Upper end.
        regime: ``stable``: below the threshold by more than a tenth. ``at the edge``: within a tenth of it. ``unstable``: above it
            by more than a tenth, wherever in its range it lies. ``between the thresholds``: which of these holds depends on the
            batch's noise, of which too little is known. ``not resolved``: batch sharpness has too wide an interval to tell.
        batch_sharpness: The measured value.
        evidence: What the threshold's range comes from, in words.
        lr: Learning rate in torch's form.
        momentum: Momentum.
        nesterov: Whether the step is Nesterov's.
    """

    low: float
    high: float
    headroom: float
    headroom_low: float
    headroom_high: float
    threshold: float
    threshold_low: float
    threshold_high: float
    regime: str
    batch_sharpness: float
    evidence: str
    lr: float
    momentum: float
    nesterov: bool


def stability(
    *,
    lr: float,
    batch_sharpness: float | BatchSharpness,
    momentum: float = 0.0,
    nesterov: bool = False,
    form: str = "torch",
    batch_size: int | None = None,
    num_examples: int | None = None,
    sharpness: float | None = None,
    mean_curvature: float | None = None,
) -> Stability:
    """Compare batch sharpness with the levels at which SGD with momentum becomes unstable.

    With batch sharpness alone the answer between the two levels stays open, for it depends on how much of the sharpness is the
    batch's noise. ``mean_curvature`` settles it; ``sharpness`` narrows it; a batch that is the whole data set has no noise. Without
    momentum the levels agree.

    Args:
        lr: Learning rate.
        batch_sharpness: Measured at the batch size that is trained with: a number, or a measurement, whose interval is used.
        momentum: In [0, 1).
        nesterov: Whether the step is Nesterov's in torch's form.
        form: ``torch``: ``v <- b v + g``. ``ema``: ``v <- b v + (1-b) g``, whose levels are those of torch's form at ``lr * (1-b)``.
        batch_size: Examples a step; the measurement's own when left out.
        num_examples: Examples of the training set, to know a full batch by.
        sharpness: Largest eigenvalue of the full Hessian.
        mean_curvature: Interaction-aware sharpness at this batch size.

    Raises:
        InputError: If an argument is out of its range.

    Example:
        >>> found = stability(lr=0.1, momentum=0.5, batch_sharpness=5.0)
        >>> found.low, found.high, found.headroom, found.regime
        (10.0, 30.0, 0.5, 'stable')
    """
    eta = torch_lr(check_number("lr", lr, above=0.0), check_momentum(momentum), form)
    low, high = thresholds(lr=eta, momentum=momentum, nesterov=nesterov)
    value, value_low, value_high = sharpness_ends(batch_sharpness)
    if sharpness is not None:
        check_number("sharpness", sharpness)
    if mean_curvature is not None:
        check_number("mean_curvature", mean_curvature)
    share = noise_share(
        batch_sharpness=value,
        mean_curvature=mean_curvature,
        sharpness=sharpness,
        full_batch=is_full_batch(batch_sharpness, batch_size, num_examples),
    )
    ends = sorted(
        edge_level(lr=eta, noise_share=end, momentum=momentum, nesterov=nesterov) for end in (share.low, share.high)
    )
    # The mean step alone diverges where the full Hessian's curvature passes its own level, whatever the batch.
    mean_load = sharpness / high if sharpness is not None else 0.0
    lower_load, upper_load = max(_over(value_low, ends[1]), mean_load), max(_over(value_high, ends[0]), mean_load)
    return Stability(
        low=low,
        high=high,
        headroom=1 - max(value / ends[0], mean_load),
        headroom_low=1 - upper_load,
        headroom_high=1 - lower_load,
        threshold=ends[0],
        threshold_low=ends[0],
        threshold_high=ends[1],
        regime=_regime(lower_load, upper_load, share, ends[0], ends[1]),
        batch_sharpness=value,
        evidence=share.evidence,
        lr=eta,
        momentum=momentum,
        nesterov=nesterov,
    )


def sharpness_ends(batch_sharpness: float | BatchSharpness) -> tuple[float, float, float]:
    """Value and interval ends of a batch sharpness; the value three times for a number.

    Raises:
        InputError: If the value is not a finite number.
    """
    if isinstance(batch_sharpness, BatchSharpness):
        value = batch_sharpness.value
        if not math.isfinite(value):
            raise InputError(
                f"batch_sharpness must hold a finite value, got {value} from {batch_sharpness.num_batches} batches; "
                "measure batches whose gradient is finite and not zero"
            )
        return value, batch_sharpness.low, batch_sharpness.high
    value = check_number("batch_sharpness", batch_sharpness)
    return value, value, value


def is_full_batch(batch_sharpness: float | BatchSharpness, batch_size: int | None, num_examples: int | None) -> bool:
    """Whether the batch is the whole data set, as far as the sizes are known.

    Raises:
        InputError: If a size is below one, or the batch larger than the data set.
    """
    size: float | None = batch_size
    if size is None and isinstance(batch_sharpness, BatchSharpness):
        size = batch_sharpness.batch_size
    if size is not None:
        check_number("batch_size", size, at_least=1)
    if num_examples is not None:
        check_number("num_examples", num_examples, at_least=1)
    if num_examples is None or size is None:
        return False
    if size > num_examples:
        raise InputError(
            f"batch_size must be at most num_examples, got {size:g} and {num_examples}; check the two sizes"
        )
    return size == num_examples


def _over(value: float, level: float) -> float:
    return value / level if math.isfinite(value) else math.copysign(math.inf, value)


def _regime(lower: float, upper: float, share: NoiseShare, threshold_low: float, threshold_high: float) -> str:
    if upper < 1 - EDGE_WIDTH:
        return "stable"
    if lower > 1 + EDGE_WIDTH:
        return "unstable"
    if lower >= 1 - EDGE_WIDTH and upper <= 1 + EDGE_WIDTH:
        return "at the edge"
    return "between the thresholds" if threshold_high - threshold_low > EDGE_WIDTH * threshold_low else "not resolved"
