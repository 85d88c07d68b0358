"""What a change of learning rate, momentum or batch size would do to a run: nothing dangerous, or a catapult.

A change is dangerous when batch sharpness, which does not move in an instant, finds itself above the level that belongs to the new
settings: the loss spikes, and training settles anew at that level (Andreyev et al. 2026, arXiv:2604.14108). So batch sharpness is
split into mean curvature and noise, noise is carried to the new batch size as ``(N - B)/(B (N - 1))``, and both are put into the
mean-square law of `edge_level` at the new settings. What is not known of the split is carried along as a range.

Deviation: this prediction is our own; the paper states only in which direction each change works.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.measure.curvature.batch_sharpness import BatchSharpness
from batchwright.measure.curvature.edge_level import NoiseShare, edge_level, load, noise_share
from batchwright.measure.curvature.mean_square import check_momentum, thresholds, torch_lr
from batchwright.measure.curvature.stability import EDGE_WIDTH, sharpness_ends


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSettings:
    """What sets the stability of SGD's steps.

    Attributes:
        lr: Learning rate, in the form named by ``form``.
        batch_size: Examples a step.
        momentum: In [0, 1).
        nesterov: Whether the step is Nesterov's in torch's form.
        form: ``torch`` or ``ema``, as in `stability`.
    """

    lr: float
    batch_size: int
    momentum: float = 0.0
    nesterov: bool = False
    form: str = "torch"

    def __post_init__(self) -> None:
        check_int("batch_size", self.batch_size, at_least=1)
        check_number("lr", self.lr, above=0.0)
        check_momentum(self.momentum)
        torch_lr(self.lr, self.momentum, self.form)

    @property
    def torch_lr(self) -> float:
        """Learning rate in torch's form."""
        return torch_lr(self.lr, self.momentum, self.form)

    def load(self, mean_curvature: float, noise_curvature: float) -> float:
        """Learning rate over the largest stable one; 1 at the edge."""
        return load(
            lr=self.torch_lr,
            mean_curvature=mean_curvature,
            noise_curvature=noise_curvature,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )

    def level(self, share: float) -> float:
        """Batch sharpness at the edge, at this share of noise."""
        return edge_level(lr=self.torch_lr, noise_share=share, momentum=self.momentum, nesterov=self.nesterov)

    @property
    def mean_limit(self) -> float:
        """Level of the mean curvature alone."""
        return thresholds(lr=self.torch_lr, momentum=self.momentum, nesterov=self.nesterov)[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class WhatIf:
    """Prediction for one change of settings.

    Attributes:
        spike: The likelier outcome: whether the loss spikes.
        outcome: ``safe``, ``catapult``, or ``not resolved`` where the range of ``load_after`` does not settle it.
        load_before: Batch sharpness over its edge at the present settings; 1 at the edge.
        load_after: The same right after the change; a spike is predicted above 1.1, for plateaus scatter by a tenth.
        load_after_low: Lower end, over what is not known of batch sharpness and its noise.
        load_after_high: Upper end; ``inf`` where the noise at the new batch size is not known at all.
        threshold_before: Edge of batch sharpness at the present settings.
        threshold_after: Edge at the new ones, where a run that spikes settles again.
        batch_sharpness_before: As measured.
        batch_sharpness_after: Expected right after the change, at the new batch size.
        noise_share: Part of the measured batch sharpness taken for noise.
        noise_share_low: Smallest share that the evidence allows.
        noise_share_high: Largest.
        settings: The new settings.
        reason: One sentence.
    """

    spike: bool
    outcome: str
    load_before: float
    load_after: float
    load_after_low: float
    load_after_high: float
    threshold_before: float
    threshold_after: float
    batch_sharpness_before: float
    batch_sharpness_after: float
    noise_share: float
    noise_share_low: float
    noise_share_high: float
    settings: StepSettings
    reason: str


def what_if(
    current: StepSettings,
    change: Mapping[str, object],
    *,
    batch_sharpness: float | BatchSharpness,
    sharpness: float | None = None,
    mean_curvature: float | None = None,
    other_batch_sharpness: Mapping[int, float] | None = None,
    num_examples: int | None = None,
) -> WhatIf:
    """Predict whether a change of settings makes a run that is stable now spike.

    Raising lr or momentum or lowering batch size works towards the edge, the reverse away from it; whether a step towards it crosses it
    depends on how near it is. With batch sharpness alone the noise's share is the one that puts the present run at its edge, where
    training tends to; the further measurements replace that guess. The momentum buffer is taken to be emptied at the change, for a
    stale one moves the parameters by itself.

    Args:
        current: Present settings.
        change: New values by the names of `StepSettings`; what is left out stays.
        batch_sharpness: Measured at ``current.batch_size``.
        sharpness: Largest eigenvalue of the full Hessian.
        mean_curvature: Interaction-aware sharpness at ``current.batch_size``.
        other_batch_sharpness: Batch sharpness at the same parameters for other batch sizes, by batch size.
        num_examples: Examples of the training set, whose whole is a batch without noise.

    Raises:
        InputError: If a name is not one of the settings, a value is out of range, or batch sharpness is not positive.

    Example:
        >>> now = StepSettings(lr=0.1, momentum=0.5, batch_size=4)
        >>> found = what_if(now, {"lr": 0.2}, batch_sharpness=9.4)
        >>> found.spike, round(found.threshold_after, 2)
        (True, 5.0)
    """
    new = _changed(current, change)
    value, low, high = sharpness_ends(batch_sharpness)
    check_number("batch_sharpness", value, above=0.0, way_out="a loss that curves down along its gradients has no edge")
    for name, given in (("sharpness", sharpness), ("mean_curvature", mean_curvature)):
        if given is not None:
            check_number(name, given)
    _check_sizes(current, new, num_examples)
    noise_factor = _noise(new.batch_size, num_examples), _noise(current.batch_size, num_examples)
    share = _share(current, value, sharpness, mean_curvature, other_batch_sharpness or {}, num_examples)
    likely = _at_edge(current, value, share)
    growth = _growth(*noise_factor)
    mean_before, mean_after = ((sharpness or 0.0) / settings.mean_limit for settings in (current, new))

    def loads(level: float, part: float) -> tuple[float, float]:
        mean, noise = (1 - part) * level, part * level
        before, after = current.load(mean, noise), new.load(mean, _scaled(noise, growth))
        return max(before, mean_before), max(after, mean_after)

    corners = [
        loads(level, part)
        for level, part in product((low, value, high), (share.low, likely, share.high))
        if math.isfinite(level)
    ]
    before, after = loads(value, likely)
    unknown_noise = math.isinf(growth)
    after_high = math.inf if unknown_noise else max(end for _, end in corners)
    if any(math.isinf(end) for end in (low, high)):
        after_low, after_high = 0.0, math.inf
    else:
        after_low = min(end for _, end in corners)
    relieved = not unknown_noise and all(end <= start * (1 + 1e-9) for start, end in corners)
    outcome = _outcome(after_low, after_high, relieved)
    at_value = [loads(value, part)[1] for part in (share.low, likely, share.high)]
    open_because = _open_because((low, high), at_value, share.evidence)
    mean, noise = (1 - likely) * value, _scaled(likely * value, growth)
    threshold_after = new.level(noise / (mean + noise) if mean + noise > 0 else 0.0)
    return WhatIf(
        spike=after > 1 + EDGE_WIDTH and not relieved,
        outcome=outcome,
        load_before=before,
        load_after=after,
        load_after_low=after_low,
        load_after_high=after_high,
        threshold_before=current.level(likely),
        threshold_after=threshold_after,
        batch_sharpness_before=value,
        batch_sharpness_after=mean + noise,
        noise_share=likely,
        noise_share_low=share.low,
        noise_share_high=share.high,
        settings=new,
        reason=_reason(outcome, relieved, unknown_noise, mean + noise, threshold_after, share.evidence, open_because),
    )


def _changed(current: StepSettings, change: Mapping[str, object]) -> StepSettings:
    names = [each.name for each in fields(StepSettings)]
    unknown = sorted(set(change) - set(names))
    if unknown or not change:
        raise InputError(f"change must name at least one of {', '.join(names)} and nothing else, got {sorted(change)}")
    return replace(current, **change)  # type: ignore[arg-type]


def _check_sizes(current: StepSettings, new: StepSettings, num_examples: int | None) -> None:
    largest = max(current.batch_size, new.batch_size)
    if num_examples is not None and check_int("num_examples", num_examples, at_least=1) < largest:
        raise InputError(
            f"batch_size must be at most num_examples, got {largest} and {num_examples}; check the two sizes"
        )


def _noise(batch_size: int, num_examples: int | None) -> float:
    """Variance of a batch's mean over that of one example, for batches drawn without replacement."""
    if num_examples is None:
        return 1 / batch_size
    return (num_examples - batch_size) / (batch_size * max(num_examples - 1, 1))


def _growth(after: float, before: float) -> float:
    """Factor on the noise; infinite where a full batch, which shows none, becomes a smaller one."""
    if before == 0:
        return 1.0 if after == 0 else math.inf
    return after / before


def _scaled(noise: float, growth: float) -> float:
    """Noise after the change; where it was not seen, the least it can be."""
    return noise if math.isinf(growth) else noise * growth


def _share(
    current: StepSettings,
    value: float,
    sharpness: float | None,
    mean_curvature: float | None,
    others: Mapping[int, float],
    num_examples: int | None,
) -> NoiseShare:
    """Bounds on the noise's share, narrowed by the fact that the run is stable as it is."""
    fitted = _mean_from_sizes(current.batch_size, value, others, num_examples)
    if mean_curvature is None and fitted is not None:
        share = min(max(1 - fitted / value, 0.0), 1.0)
        return NoiseShare(low=share, high=share, evidence="batch sharpness at several batch sizes")
    share_found = noise_share(
        batch_sharpness=value,
        mean_curvature=mean_curvature,
        sharpness=sharpness,
        full_batch=current.batch_size == num_examples,
    )
    stable = _share_at_load(current, value, 1 + EDGE_WIDTH)
    high = min(max(stable, share_found.low), share_found.high)
    return NoiseShare(low=share_found.low, high=high, evidence=share_found.evidence)


def _mean_from_sizes(
    batch_size: int, value: float, others: Mapping[int, float], num_examples: int | None
) -> float | None:
    """Mean curvature from a straight line of batch sharpness over the noise factor; None with one size alone."""
    points = [(_noise(batch_size, num_examples), value)]
    for size, other in others.items():
        check_int("other_batch_sharpness", size, at_least=1, way_out="its keys are batch sizes")
        points.append((_noise(size, num_examples), check_number("other_batch_sharpness", other)))
    centre = sum(x for x, _ in points) / len(points)
    spread = sum((x - centre) ** 2 for x, _ in points)
    if spread == 0:
        return None
    slope = sum((x - centre) * y for x, y in points) / spread
    # Through the point that was measured at the present size: its share is what is asked for.
    return value - slope * points[0][0]


def _at_edge(current: StepSettings, value: float, share: NoiseShare) -> float:
    """The share within its bounds that comes nearest to putting the present run at its edge."""
    return min(max(_share_at_load(current, value, 1.0), share.low), share.high)


def _share_at_load(current: StepSettings, value: float, wanted: float) -> float:
    """Share of noise at which the present load is ``wanted``, or the nearest end of [0, 1]; load rises with the share."""

    def at(share: float) -> float:
        return current.load((1 - share) * value, share * value)

    if at(1.0) <= wanted:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if at(middle) <= wanted else (low, middle)
    return low


def _outcome(low: float, high: float, relieved: bool) -> str:
    if relieved or high <= 1:
        return "safe"
    return "catapult" if low > 1 + EDGE_WIDTH else "not resolved"


def _open_because(interval: tuple[float, float], at_value: Sequence[float], evidence: str) -> str:
    """What leaves a prediction open, with what would settle it: the noise's share, the scatter of batches, or neither."""
    if _outcome(min(at_value), max(at_value), False) != "not resolved":
        low, high = interval
        return f"its interval ({low:.3g} to {high:.3g}) is too wide to call it: measure more batches, max_batches= of a monitor"
    if max(at_value) > min(at_value):
        return f"too near to call from {evidence}: measure interaction-aware sharpness, or at the new batch size"
    return "within a tenth of it, where runs go either way"


def _reason(
    outcome: str,
    relieved: bool,
    unknown_noise: bool,
    expected: float,
    threshold: float,
    evidence: str,
    open_because: str,
) -> str:
    if relieved:
        return "the change moves both curvature and its noise away from the edge, or leaves them where they are"
    found = f"batch sharpness would be about {expected:.3g} against an edge of {threshold:.3g} at the new settings"
    if unknown_noise:
        return (
            f"{found}, but a full batch does not show the noise of a smaller one: measure batch sharpness at that size"
        )
    return f"{found}, {open_because}" if outcome == "not resolved" else f"{found}, judged from {evidence}"
