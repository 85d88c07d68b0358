"""What a run of safe updates leaves behind: a record of each update, and the state that the next one depends on."""

import math
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from batchwright.core.statistics import Interval
from batchwright.rl.observed import Observed
from batchwright.rl.trial_curvature import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateRecord:
    """One update, as it is recorded.

    Attributes:
        step: Number of the update, from 1 on.
        num_trajectories: Used so far, this update's among them.
        num_steps: Steps of the environment so far.
        batch_size: Trajectories of this update.
        num_looks: Sizes at which SPG looked; 1 otherwise.
        mean_return: Discounted return before the update, mean over the batch.
        return_error: Its standard error.
        realised: What the update before this one changed: this mean return less the last, with its 95 % interval; None at first.
        delta: Probability of failure that this update was given.
        step_size: Zero where the batch did not resolve the gradient: the parameters stay.
        coordinate: That moved; None where all did.
        gradient_size: ``G`` of `StepChoice`.
        grad_norm: Euclidean norm of the estimate.
        error_sqrt: ``d / sqrt(N)``.
        error_linear: ``f / N``.
        guaranteed_improvement: Of the update, if the bounds hold.
        first_order: Part of it that the gradient promises.
        error_cost: Part that the error takes.
        curvature_cost: Part that the curvature takes.
        curvature: ``c``.
        next_batch_size: Trajectories of the next update.
        slack: Loss of return that relaxed SPG may risk here.
        taken_back: Whether the step before this update was undone, which the trial of a curvature does where it lost; the parameters
            are then those before that step.
        theta: Parameters after the update, if there are no more than 32.
    """

    step: int
    num_trajectories: int
    num_steps: int
    batch_size: int
    num_looks: int
    mean_return: float
    return_error: float
    realised: Interval | None
    delta: float
    step_size: float
    coordinate: int | None
    gradient_size: float
    grad_norm: float
    error_sqrt: float
    error_linear: float
    guaranteed_improvement: float
    first_order: float
    error_cost: float
    curvature_cost: float
    curvature: float
    next_batch_size: int
    slack: float = 0.0
    taken_back: bool = False
    theta: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All that the next update depends on, besides environment and options.

    Attributes:
        theta: Parameters.
        step: Updates done.
        num_trajectories: Used.
        num_steps: Steps of the environment used.
        batch_size: Of the next update.
        baseline: Of the next update, where it is that of the last batch.
        observed: Largest rewards, observations and actions so far.
        best_upper: Largest upper bound of a return so far, for relaxed SPG.
        last_return: Mean return of the last batch and the square of its standard error; None at first.
        trial: The step before, where the curvature is tried.
    """

    theta: Float[Tensor, " m"]
    batch_size: int
    step: int = 0
    num_trajectories: int = 0
    num_steps: int = 0
    baseline: Float[Tensor, "T m"] | None = None
    observed: Observed = field(default_factory=Observed)
    best_upper: float = -math.inf
    last_return: tuple[float, float] | None = None
    trial: Trial | None = None

    @property
    def judged_theta(self) -> Float[Tensor, " m"]:
        """Parameters without a step that is still on trial."""
        return self.theta if self.trial is None else self.trial.theta
