"""One reading of the stability gauge, and what of an optimizer decides which form of it applies."""

import math
from dataclasses import dataclass

import torch

from batchwright.measure.curvature.batch_sharpness import BatchSharpness
from batchwright.measure.curvature.generalized_sharpness import GeneralizedSharpness
from batchwright.measure.curvature.stability import EDGE_WIDTH, stability
from batchwright.measure.curvature.what_if import StepSettings

NO_NUMBER = "not a number"


@dataclass(frozen=True, kw_only=True, slots=True)
class StabilityReading:
    """The gauge at one step of a run.

    Attributes:
        step: Optimizer steps done.
        num_examples: Training examples used.
        batch_size: Examples in a step.
        lr: Learning rate, in torch's form.
        momentum: Momentum; NaN in the form ``step``, which knows none.
        form: ``gradient``: batch sharpness against the levels of SGD with momentum. ``step``: the generalised sharpness along the
            optimizer's own step, without a unit, against its edge at 2.
        batch_sharpness: In units of one over the learning rate; in the form ``step`` the generalised sharpness.
        standard_error: Of it; infinite where one batch alone was measured.
        num_batches: Batches it was measured on.
        mean_curvature: Interaction-aware sharpness, where this reading measured it.
        sharpness: Largest eigenvalue of the Hessian of a fixed sample, where this reading measured it.
        sharpness_converged: Whether that eigenvalue was found to its tolerance; if not it is a lower bound.
        low: Level of small batches; 2 in the form ``step``, as is ``high``.
        high: Level of large batches.
        threshold: The level that applies at this batch size, as far as it is known; the cautious end.
        headroom: ``1 - batch_sharpness / threshold``, and less where the largest eigenvalue alone is nearer to its own level.
        regime: As in `Stability`; ``not a number`` where a loss or curvature was none.
        share: Seconds of measuring over seconds of training, up to and with this reading.
    """

    step: int
    num_examples: int
    batch_size: int
    lr: float
    momentum: float
    form: str
    batch_sharpness: float
    standard_error: float
    num_batches: int
    mean_curvature: float | None
    sharpness: float | None
    sharpness_converged: bool | None
    low: float
    high: float
    threshold: float
    headroom: float
    regime: str
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The part of a reading that compares what was measured with its levels."""

    low: float
    high: float
    threshold: float
    headroom: float
    regime: str


def settings_of(optimizer: torch.optim.Optimizer, batch_size: int) -> StepSettings | None:
    """What sets the stability of the optimizer's steps; None unless it is one SGD, with or without momentum.

    Parameter groups that differ in lr or momentum are several SGDs. Weight decay adds itself to every curvature, which is left out.
    """
    if type(optimizer) is not torch.optim.SGD:
        return None
    kinds = {
        (float(group["lr"]), float(group["momentum"]), float(group["dampening"]), bool(group["nesterov"]))
        for group in optimizer.param_groups
    }
    if len(kinds) != 1:
        return None
    ((lr, momentum, dampening, nesterov),) = kinds
    # A dampened gradient enters the buffer with this weight, as a smaller learning rate would; the first step alone is not dampened.
    eta = lr * (1 - dampening) if momentum else lr
    if not (0 < eta < math.inf and 0 <= momentum < 1):
        return None
    return StepSettings(lr=eta, batch_size=batch_size, momentum=momentum, nesterov=nesterov)


def gradient_verdict(
    settings: StepSettings, found: BatchSharpness, mean_curvature: float | None, sharpness: float | None
) -> Verdict:
    """Batch sharpness against the levels of SGD with momentum."""
    # Levels need no measurement; a curvature of zero stands in where there is none, so that they are known all the same.
    value = found if math.isfinite(found.value) else 0.0
    judged = stability(
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        batch_sharpness=value,
        batch_size=settings.batch_size,
        mean_curvature=mean_curvature if math.isfinite(found.value) else None,
        sharpness=sharpness,
    )
    known = math.isfinite(found.value)
    return Verdict(
        low=judged.low,
        high=judged.high,
        threshold=judged.threshold,
        headroom=judged.headroom if known else math.nan,
        regime=judged.regime if known else NO_NUMBER,
    )


def step_verdict(found: GeneralizedSharpness) -> Verdict:
    """The generalised sharpness against its edge."""
    edge, low, high = found.edge, found.ratio.low / found.edge, found.ratio.high / found.edge
    if math.isnan(found.value):
        regime = NO_NUMBER
    elif high < 1 - EDGE_WIDTH:
        regime = "stable"
    elif low > 1 + EDGE_WIDTH:
        regime = "unstable"
    elif low >= 1 - EDGE_WIDTH and high <= 1 + EDGE_WIDTH:
        regime = "at the edge"
    else:
        regime = "not resolved"
    return Verdict(low=edge, high=edge, threshold=edge, headroom=found.headroom, regime=regime)
