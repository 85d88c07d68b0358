"""Stability of optimizers that divide gradients by a slowly changing preconditioner, such as Adam.

Source: Cohen et al. (2022), Adaptive Gradient Methods at the Edge of Stability, arXiv:2207.14484: full-batch Adam settles where the
largest eigenvalue of ``P^-1/2 H P^-1/2`` is ``(2 + 2 b1)/((1 - b1) lr)``, 38/lr at ``b1 = .9``.
"""

from dataclasses import dataclass

from batchwright.core.checks import check_number
from batchwright.measure.curvature.mean_square import thresholds, torch_lr
from batchwright.measure.curvature.stability import EDGE_WIDTH

LIMITS = (
    "a full-batch criterion for a preconditioner that stands still: it holds at large batch and late in training, takes the "
    "first moment for an exponential average, and leaves out weight decay. At small batch noise makes steps unstable below it: "
    "see low. Muon's preconditioner is not diagonal and changes with each step: use generalized_sharpness for it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreconditionedStability:
    """Preconditioned sharpness against its levels, in units of one over the learning rate.

    Attributes:
        low: ``2/lr``: the level of pure noise, by analogy with SGD; not established for Adam.
        high: ``(2 + 2 b1)/((1 - b1) lr)``: the full-batch level.
        headroom: ``1 - sharpness / high``.
        regime: ``stable``, ``at the edge`` or ``unstable`` against ``high``, with a tenth on either side as the edge.
        limits: What the criterion does not say.
    """

    low: float
    high: float
    headroom: float
    regime: str
    limits: str


def preconditioned_stability(*, lr: float, beta1: float, preconditioned_sharpness: float) -> PreconditionedStability:
    """Compare the largest eigenvalue of the preconditioned Hessian with Adam's full-batch level.

    Args:
        lr: Adam's learning rate.
        beta1: Decay of its first moment, in [0, 1).
        preconditioned_sharpness: Largest eigenvalue of ``P^-1/2 H P^-1/2`` with ``P`` what Adam divides by,
            ``sqrt(second moment, debiased) + eps``, as `adam_divisors` gives it.

    Raises:
        InputError: If an argument is out of its range.

    Example:
        >>> round(preconditioned_stability(lr=1e-3, beta1=0.9, preconditioned_sharpness=19000.0).high)
        38000
    """
    check_number("lr", lr, above=0.0)
    check_number("beta1", beta1, at_least=0.0, below=1.0)
    value = check_number("preconditioned_sharpness", preconditioned_sharpness)
    low, high = thresholds(lr=torch_lr(lr, beta1, "ema"), momentum=beta1)
    part = value / high
    regime = "stable" if part < 1 - EDGE_WIDTH else "unstable" if part > 1 + EDGE_WIDTH else "at the edge"
    return PreconditionedStability(low=low, high=high, headroom=1 - part, regime=regime, limits=LIMITS)
