"""How far the mean of ``N`` single-trajectory gradients is from the gradient: ``d/sqrt(N) + f/N`` with probability ``1 - delta``.

Sources: Papini et al. (2017); Audibert, Munos, Szepesvári (2009) (empirical Bernstein); Papini et al. (2022) (the norm of the error).
"""

import math
from dataclasses import dataclass

from batchwright.core.checks import check_int, check_number

BOUNDS = ("chebyshev", "hoeffding", "bernstein", "sub-gaussian")


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorBound:
    """``|g_k - ∂J/∂theta_k| <= d/sqrt(N) + f/N`` with probability at least ``1 - delta``.

    Attributes:
        d: Of the part that shrinks as the root of the batch.
        f: Of the part that shrinks as the batch.
        delta: Probability that it fails, over all the coordinates that it was asked for.
    """

    d: float
    f: float = 0.0
    delta: float

    def error(self, num_trajectories: int) -> float:
        """The bound at a batch."""
        return self.d / math.sqrt(num_trajectories) + self.f / num_trajectories


def chebyshev(variance: float, delta: float, *, num_coordinates: int = 1) -> ErrorBound:
    """From a bound of the variance of one trajectory's estimate: ``d = sqrt(V / delta)``.

    Args:
        variance: Bound ``V``, in one coordinate; or of the squared norm of the error, for a bound of the norm.
        delta: Probability of failure.
        num_coordinates: ``m`` coordinates of which the data choose one: each gets ``delta / m`` (union bound). Public code leaves
            that out, and its bound fails up to ``m`` times as often.
    """
    check_number("variance", variance, at_least=0.0)
    return ErrorBound(d=math.sqrt(variance / _share(delta, num_coordinates)), delta=delta)


def hoeffding(value_range: float, delta: float, *, num_coordinates: int = 1) -> ErrorBound:
    """From the range of one trajectory's estimate: ``d = range sqrt(ln(2/delta) / 2)``.

    Args:
        value_range: Largest less smallest value that one trajectory can give; that of a sample is not a bound.
        delta: Probability of failure.
        num_coordinates: Union bound, as in `chebyshev`.
    """
    check_number("value_range", value_range, at_least=0.0)
    return ErrorBound(d=value_range * math.sqrt(math.log(2 / _share(delta, num_coordinates)) / 2), delta=delta)


def bernstein(sample_variance: float, value_range: float, delta: float, *, num_coordinates: int = 1) -> ErrorBound:
    """From the sample variance and the range: ``d = sqrt(2 ln(3/delta) s²)``, ``f = 3 range ln(3/delta)``.

    Args:
        sample_variance: ``s²`` of the batch itself.
        value_range: As in `hoeffding`.
        delta: Probability of failure.
        num_coordinates: Union bound, as in `chebyshev`.
    """
    check_number("sample_variance", sample_variance, at_least=0.0)
    check_number("value_range", value_range, at_least=0.0)
    log = math.log(3 / _share(delta, num_coordinates))
    return ErrorBound(d=math.sqrt(2 * log * sample_variance), f=3 * value_range * log, delta=delta)


def bounded_score(
    *, reward_bound: float, score_bound: float, time_factor: float, num_parameters: int, delta: float
) -> ErrorBound:
    """Of the norm of the error, for a bounded score: ``d = 2 R W T sqrt(2 m ln(6/delta))`` (Papini et al. 2022)."""
    log = math.log(6 / _share(delta, 1))
    return ErrorBound(d=2 * reward_bound * score_bound * time_factor * math.sqrt(2 * num_parameters * log), delta=delta)


def sub_gaussian_score(
    *, reward_bound: float, proxy: float, time_factor: float, num_parameters: int, delta: float
) -> ErrorBound:
    """Of the norm of the error, for a sub-Gaussian score: ``d = 4 R w T sqrt(14 m ln(6/delta))`` (Papini et al. 2022).

    For one coordinate alone, or each of ``n`` at ``delta / n``, take ``num_parameters=1`` with the coordinate's proxy.
    """
    log = math.log(6 / _share(delta, 1))
    return ErrorBound(d=4 * reward_bound * proxy * time_factor * math.sqrt(14 * num_parameters * log), delta=delta)


def norm_bernstein(
    *,
    sample_variance: float,
    reward_bound: float,
    score_bound: float,
    time_factor: float,
    num_parameters: int,
    num_trajectories: int,
    delta: float,
) -> ErrorBound:
    """Of the norm of the error, from the sample variance (Papini et al. 2022).

    ``sqrt(8 m s² ln(12/delta) / N) + 14 m R W T ln(6/delta) / (3 (N - 1))``. Deviation: the public code leaves ``R`` out, which only
    R = 1 allows.

    Args:
        sample_variance: ``sum_i ‖g_i - g‖² / (N - 1)``.
        reward_bound: ``R``.
        score_bound: ``W``.
        time_factor: ``T`` of `time_factor`.
        num_parameters: ``m``.
        num_trajectories: ``N``, at least 2.
        delta: Probability of failure.
    """
    check_int("num_trajectories", num_trajectories, at_least=2)
    share = _share(delta, 1)
    range_part = 14 * num_parameters * reward_bound * score_bound * time_factor * math.log(6 / share) / 3
    return ErrorBound(
        d=math.sqrt(8 * num_parameters * sample_variance * math.log(12 / share)),
        f=range_part * num_trajectories / (num_trajectories - 1),
        delta=delta,
    )


def time_factor(*, discount: float, horizon: int, estimator: str) -> float:
    """``T``: one trajectory's estimate is at most ``R T`` times the largest score.

    REINFORCE: ``H sum_t gamma^t``; G(PO)MDP: ``sum_t gamma^t (t + 1)``.
    """
    if estimator == "reinforce":
        return horizon * math.fsum(discount**t for t in range(horizon))
    return math.fsum(discount**t * (t + 1) for t in range(horizon))


def _share(delta: float, num_coordinates: int) -> float:
    check_number("delta", delta, above=0.0, below=1.0)
    return delta / check_int("num_coordinates", num_coordinates, at_least=1)
