"""The curvature of a return found by trial: take a step, look at what it brought, go back if it brought a loss. Practice, no bound.

The constants that bound the curvature hold for all policies and all environments, and are a million times too large on a cart-pole:
steps chosen by them are safe and do not move. This starts from such a constant and halves it as long as steps bring what they promise,
as line searches of convex optimization do (Armijo 1966; Nesterov 2013, *Gradient methods for minimizing composite functions*); the
returns that a step is judged by are noisy, so a step too small to be seen is let pass and one that is seen has to bring a gain.
The trajectories of a batch serve twice: to judge the step that led there, and for the gradient of the next.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from batchwright.core.statistics import normal_quantile

# Of the curvature, from one step to the next. Half of a true curvature still gives no loss: the step 1/(2c) at c = true/2 brings zero.
# Steps too small to be seen cost nothing but trajectories, so they grow faster.
SHRINK, SHRINK_UNSEEN, GROW, GROW_AFTER_LOSS = 2.0, 4.0, 4.0, 64.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A step that was taken and not judged yet.

    Attributes:
        curvature: ``c`` that it was chosen with.
        theta: Parameters before it, to go back to.
        mean_return: Before it.
        square_error: Squared standard error of that.
        promise: ``<g, u>`` of the step ``u``.
        size: ``‖u‖`` in the norm of the curvature; 0 if no step was taken.
        guaranteed: Improvement that it would bring if ``c`` and the error of ``g`` were bounds.
        batch_size: Trajectories that ``g`` was the mean of.
    """

    curvature: float
    theta: Float[Tensor, " m"]
    mean_return: float
    square_error: float
    promise: float
    size: float
    guaranteed: float
    batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a trial came to.

    Attributes:
        taken_back: Whether the step is to be undone.
        curvature: ``c`` of the next step.
    """

    taken_back: bool
    curvature: float


def judge(trial: Trial, mean_return: float, square_error: float) -> Verdict:
    """Judge a step by the mean return after it.

    A step whose guaranteed improvement is larger than 1.96 standard errors of the difference can be seen: it is taken back if the
    return is lower than before, and else the curvature that it shows, ``(<g, u> - gain) / ‖u‖²``, is that of the next step, within half
    and four times the present one. A step that cannot be seen is taken back if the return is lower by more than that; else the
    curvature is divided by four.

    Args:
        trial: The step.
        mean_return: After it, from trajectories of its own.
        square_error: Squared standard error of that.
    """
    if trial.size == 0:
        return Verdict(taken_back=False, curvature=trial.curvature)
    noise = normal_quantile(0.95) * math.sqrt(trial.square_error + square_error)
    gain = mean_return - trial.mean_return
    seen = trial.guaranteed > noise
    shown = (trial.promise - gain) / trial.size**2 if seen else 0.0
    if gain < (0.0 if seen else -noise):
        return Verdict(
            taken_back=True, curvature=trial.curvature * _within(shown / trial.curvature, GROW, GROW_AFTER_LOSS)
        )
    factor = _within(shown / trial.curvature, 1 / SHRINK, GROW) if seen else 1 / SHRINK_UNSEEN
    return Verdict(taken_back=False, curvature=trial.curvature * factor)


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
