"""How many trajectories, or time steps, an update needs: advice for a learner of another library, from its own gradients.

Nothing is known here of rewards or policies, so there is no guarantee: the error is that of the sample, and the advice is the size at
which the joint choice of `optimal_step` has its optimum, or at which the direction of the gradient is resolved.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError, NotEnoughEvidenceError
from batchwright.core.statistics import Interval
from batchwright.rl.error_bounds import bernstein

RULES = ("norm", "bernstein")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchAdvice:
    """Advice on the next batch.

    Attributes:
        batch_size: Trajectories (or whatever the gradients are of) of the next update; as many as ``units`` has gradients more than
            this batch where ``resolved`` is false, since more cannot be told then.
        resolved: Whether this batch shows a gradient at all.
        noise_scale: ``tr(Sigma) / ‖∇J‖²``, with a jackknife interval at 95 %; its upper end is infinite where the gradient is not
            resolved.
        grad_sq_norm: Unbiased estimate of ``‖∇J‖²``.
        trace: Unbiased estimate of the trace of the covariance of one trajectory's gradient.
        step_fraction: Share of the step for an exact gradient that is right for the present batch, ``1 - e/G``, at least 0: multiply a
            learning rate that was tuned with large batches by it.
        reason: In a sentence.
    """

    batch_size: int
    resolved: bool
    noise_scale: Interval
    grad_sq_norm: float
    trace: float
    step_fraction: float
    reason: str


def batch_size_advice(
    per_trajectory_grads: Float[Tensor, "N D"],
    *,
    rule: str = "norm",
    delta: float = 0.05,
    min_batch_size: int = 1,
    max_batch_size: int | None = None,
) -> BatchAdvice:
    """Advise a batch size from the gradients of single trajectories, or of equal parts of a batch.

    ``norm``: the error of the mean of ``N`` gradients has the mean square ``tr(Sigma)/N``, and under ``J(theta + u) >= J + <∇J, u> -
    c ‖u‖²`` the improvement guaranteed a trajectory is largest where the error is half the gradient: ``N = 4 tr(Sigma)/‖∇J‖²``, four
    times the noise scale, whatever ``c``. ``bernstein``: the same for the coordinate whose gradient is largest, with the empirical
    Bernstein error at ``delta / D`` and the range of the sample.

    Args:
        per_trajectory_grads: One gradient a row; of a sum over time or a mean, but all alike. A row may be the mean of ``k``
            trajectories; the answer is then in rows.
        rule: ``norm`` or ``bernstein``.
        delta: Probability of failure of ``bernstein``.
        min_batch_size: Least to advise.
        max_batch_size: Most to advise; four times the present batch, where left out: beyond that the sample says little.

    Raises:
        InputError: On a bad value, or fewer than 8 rows.
        NotEnoughEvidenceError: If all gradients are zero.
    """
    check_choice("rule", rule, RULES)
    check_number("delta", delta, above=0.0, below=1.0)
    check_int("min_batch_size", min_batch_size, at_least=1)
    rows = per_trajectory_grads.detach().double()
    number = len(rows)
    if number < 8:
        raise InputError(f"per_trajectory_grads must hold at least 8 rows, got {number}; keep more trajectories apart")
    if not bool(rows.isfinite().all()):
        raise InputError(
            "per_trajectory_grads must be finite, got NaN or infinity; look at the loss of each trajectory"
        )
    most = max_batch_size if max_batch_size is not None else max(4 * number, min_batch_size)
    check_int("max_batch_size", most, at_least=min_batch_size)
    mean = rows.mean(0)
    square = float(mean @ mean)
    trace = float((rows - mean).square().sum()) / (number - 1)
    if square == 0 and trace == 0:
        raise NotEnoughEvidenceError("per_trajectory_grads are all zero; there is no gradient to resolve")
    signal = square - trace / number
    scale = _noise_interval(rows, mean, signal, trace)
    if rule == "norm":
        wanted = 4 * trace / signal if signal > 0 else math.inf
        fraction = max(0.0, 1 - math.sqrt(trace / number / square)) if square > 0 else 0.0
        told = f"four times the noise scale of {trace / signal:.3g}" if signal > 0 else ""
    else:
        wanted, fraction, told = _bernstein(rows, mean, delta)
    # The sizes that follow from a gradient which is mostly noise are too small, so they are not given.
    resolved = math.isfinite(wanted) and (math.isfinite(scale.high) if rule == "norm" else fraction > 0)
    if not resolved:
        return BatchAdvice(
            batch_size=most,
            resolved=False,
            noise_scale=scale,
            grad_sq_norm=signal,
            trace=trace,
            step_fraction=fraction,
            reason=f"{number} gradients do not resolve their mean from its noise; the largest batch allowed, {most}, is advised",
        )
    chosen = max(min_batch_size, min(most, math.ceil(wanted)))
    limit = "" if chosen == math.ceil(wanted) else f", held inside {min_batch_size} to {most}"
    return BatchAdvice(
        batch_size=chosen,
        resolved=True,
        noise_scale=scale,
        grad_sq_norm=signal,
        trace=trace,
        step_fraction=fraction,
        reason=f"{chosen}: {told}{limit}",
    )


def _noise_interval(rows: Tensor, mean: Tensor, signal: float, trace: float) -> Interval:
    """Jackknife over the rows of the squared norm, Fieller's way: the ratio's ends are those of its denominator."""
    number = len(rows)
    others = (number * mean - rows) / (number - 1)
    away = (rows - mean).square().sum(1)
    traces = (trace * (number - 1) - away * number / (number - 1)) / (number - 2)
    signals = others.square().sum(1) - traces / (number - 1)
    error = math.sqrt(float((signals - signals.mean()).square().sum()) * (number - 1) / number)
    low, high = signal - 1.96 * error, signal + 1.96 * error
    value = trace / signal if signal > 0 else math.inf
    return Interval(
        value=value,
        low=min(value, trace / high) if high > 0 else math.inf,
        high=trace / low if low > 0 else math.inf,
    )


def _bernstein(rows: Tensor, mean: Tensor, delta: float) -> tuple[float, float, str]:
    number, size = rows.shape
    k = int(mean.abs().argmax())
    gradient = float(mean[k].abs())
    spread = float(rows[:, k].max() - rows[:, k].min())
    bound = bernstein(float(rows[:, k].var(correction=1)), spread, delta, num_coordinates=size)
    if gradient <= 0:
        return math.inf, 0.0, ""
    root = bound.d + math.sqrt(bound.d**2 + 3 * bound.f * gradient)
    fraction = max(0.0, 1 - bound.error(number) / gradient)
    return (
        (root / gradient) ** 2,
        fraction,
        f"the optimum of coordinate {k} with an error that fails with probability {delta:g}",
    )
