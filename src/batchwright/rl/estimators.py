"""REINFORCE and G(PO)MDP with the best baseline of each coordinate (and time), from a stream of episodes.

Sources: Williams (1992); Baxter & Bartlett (2001); Peters & Schaal (2008) (optimal baselines), as Papini et al. (2017) use them.

Each trajectory's estimate, with ``Z_t`` the sum of its scores up to ``t`` and ``q_t = gamma^t r_t``:

- REINFORCE ``g_i = Z_H (sum_t q_t - b)``,
- G(PO)MDP ``g_i = sum_t Z_t (q_t - b_t)``,

and ``b`` is the mean of ``Z² q`` over that of ``Z²``, in each coordinate by itself. The mean of ``g_i`` needs only the sums of ``Z``,
``Z q``, ``Z²`` and ``Z² q`` over the trajectories, so memory does not grow with the batch. The sample variance and the range need
the baseline first: small batches are kept for a second look, large ones are drawn once more, which gives the same episodes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_choice, check_int
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval, normal_quantile
from batchwright.rl.episodes import Episodes
from batchwright.rl.observed import Observed
from batchwright.rl.policies import Policy

ESTIMATORS = ("gpomdp", "reinforce")
BASELINES = ("batch", "previous", "none")
# Batches whose sums of scores are smaller are kept for the second look.
KEEP_BYTES = 2**27


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientEstimate:
    """A policy gradient from ``N`` trajectories.

    Attributes:
        gradient: ``(m,)``, mean of the trajectories' estimates ``g_i``.
        variance: ``(m,)``, sample variance of ``g_i`` (``ddof = 1``); None unless it was asked for, or ``N`` is 1.
        value_range: ``(m,)``, largest less smallest ``g_i``; None unless it was asked for. That of a sample: it bounds nothing.
        best_baseline: ``(T, m)``, or ``(1, m)`` of REINFORCE, which has one for the whole return: the best one by these trajectories,
            used or not.
        num_trajectories: ``N``.
        num_steps: Steps of the environment in them.
        mean_return: Mean discounted return.
        return_variance: Sample variance of the discounted return; NaN if ``N`` is 1.
        observed: Largest rewards, observations and actions, if they were asked for.
    """

    gradient: Float[Tensor, " m"]
    variance: Float[Tensor, " m"] | None
    value_range: Float[Tensor, " m"] | None
    best_baseline: Float[Tensor, "T m"]
    num_trajectories: int
    num_steps: int
    mean_return: float
    return_variance: float
    observed: Observed

    def return_interval(self, level: float = 0.95) -> Interval:
        """Normal interval of the mean discounted return."""
        if math.isnan(self.return_variance):
            return Interval(value=self.mean_return, low=-math.inf, high=math.inf, level=level)
        half = normal_quantile(level) * math.sqrt(self.return_variance / self.num_trajectories)
        return Interval(value=self.mean_return, low=self.mean_return - half, high=self.mean_return + half, level=level)


def estimate_gradient(
    policy: Policy,
    collect: Callable[[], Iterator[Episodes]],
    *,
    discount: float,
    horizon: int,
    estimator: str = "gpomdp",
    baseline: str | Float[Tensor, "T m"] = "batch",
    spread: bool = True,
    observe: bool = False,
) -> GradientEstimate:
    """Estimate the gradient of the expected discounted return.

    Args:
        policy: Drew the actions.
        collect: Gives the episodes in chunks, and the same ones when it is called again.
        discount: ``gamma``.
        horizon: Most steps of an episode.
        estimator: ``gpomdp`` or ``reinforce``.
        baseline: ``batch``: the best one, of the same trajectories, whose bias is of order ``1/N``; ``none``, or one that was known
            before they were drawn, such as the best one of the batch before: no bias.
        spread: Whether to find the variance and the range too; they may cost a second draw of the episodes.
        observe: Whether to note the largest rewards, observations and actions.

    Raises:
        InputError: On a bad value, or if there are no episodes.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if isinstance(baseline, str):
        check_choice("baseline", baseline, ("batch", "none"))
    check_int("horizon", horizon, at_least=1)
    times = horizon if estimator == "gpomdp" else 1
    sums = _Sums(times, policy.num_parameters, observe=observe)
    kept: list[tuple[Tensor, Tensor]] | None = [] if spread else None
    size = 0
    for chunk in collect():
        z, q = _scores_and_rewards(policy, chunk, discount, estimator)
        sums.add(z, q)
        sums.watch(chunk, discount)
        if kept is not None:
            size += z.nbytes + q.nbytes
            kept.append((z, q))
            if size > KEEP_BYTES:
                kept = None
    if sums.number == 0:
        raise InputError("collect must give at least 1 episode, got none")
    best = sums.baseline()
    used = baseline if isinstance(baseline, Tensor) else best if baseline == "batch" else torch.zeros_like(best)
    if used.shape != best.shape:
        raise InputError(f"baseline must have shape {tuple(best.shape)}, got {tuple(used.shape)}")
    gradient = (sums.zq - used * sums.z).sum(0) / sums.number
    variance, value_range = None, None
    if spread:
        again = iter(kept) if kept is not None else _again(policy, collect, discount, estimator)
        variance, value_range = _spread(again, used, gradient, sums.number)
    returns = sums.returns / sums.number
    return GradientEstimate(
        gradient=gradient,
        variance=variance,
        value_range=value_range,
        best_baseline=best,
        num_trajectories=sums.number,
        num_steps=sums.steps,
        mean_return=returns,
        return_variance=sums.return_variance(),
        observed=sums.observed,
    )


def trajectory_gradients(
    policy: Policy,
    episodes: Episodes,
    *,
    discount: float,
    estimator: str = "gpomdp",
    baseline: Float[Tensor, "T m"] | None = None,
) -> Float[Tensor, "N m"]:
    """Each trajectory's own estimate ``g_i``, with a given baseline, or with none."""
    check_choice("estimator", estimator, ESTIMATORS)
    z, q = _scores_and_rewards(policy, episodes, discount, estimator)
    if baseline is None:
        baseline = torch.zeros(len(z), policy.num_parameters, dtype=torch.float64)
    return _each(z, q, baseline)


def _scores_and_rewards(policy: Policy, chunk: Episodes, discount: float, estimator: str) -> tuple[Tensor, Tensor]:
    """``Z`` of shape ``(T, N, m)`` and ``q`` of shape ``(T, N)``, times first; ``q`` is zero where no step is."""
    # In the order of time first: sums over time are then additions of whole rows.
    score = policy.score(chunk.observations.transpose(0, 1), chunk.actions.transpose(0, 1))
    mask = chunk.mask.transpose(0, 1)
    weights = discount ** torch.arange(chunk.horizon, dtype=score.dtype, device=score.device)
    q = chunk.rewards.transpose(0, 1).to(score.dtype) * weights[:, None]
    whole = chunk.whole
    if not whole:
        q = q * mask
        score = score * mask[..., None]
    if estimator == "reinforce":
        return score.sum(0, keepdim=True), q.sum(0, keepdim=True)
    score = score.contiguous()
    for t in range(1, len(score)):
        score[t] += score[t - 1]
    # After the end the sum of scores stands still. It has to be kept there: its mean over all trajectories is zero, that over the ones
    # that go on is not, and a baseline times the latter would be a bias.
    return score, q


def _each(z: Tensor, q: Tensor, baseline: Tensor) -> Tensor:
    b = baseline.to(z)
    if z.shape[-1] == 1:  # one parameter: no axis of length one in the inner loop
        found = ((q - b[: len(z)]) * z[..., 0]).sum(0)[:, None]
    else:
        found = (z.permute(1, 2, 0) @ q.T[..., None])[..., 0] - torch.einsum("tnm,tm->nm", z, b[: len(z)])
    # A chunk may end before the horizon: no reward comes any more, but the baselines of those times do.
    return found - z[-1] * b[len(z) :].sum(0) if len(z) < len(b) else found


def _again(
    policy: Policy, collect: Callable[[], Iterator[Episodes]], discount: float, estimator: str
) -> Iterator[tuple[Tensor, Tensor]]:
    for chunk in collect():
        yield _scores_and_rewards(policy, chunk, discount, estimator)


def _spread(
    chunks: Iterator[tuple[Tensor, Tensor]], baseline: Tensor, gradient: Tensor, number: int
) -> tuple[Tensor | None, Tensor]:
    square = torch.zeros_like(gradient)
    low, high = torch.full_like(gradient, math.inf), torch.full_like(gradient, -math.inf)
    for z, q in chunks:
        each = _each(z, q, baseline)
        # About the mean that is known by now, so that nothing cancels.
        square += (each - gradient.to(each)).square().sum(0).double().cpu()
        low = torch.minimum(low, each.amin(0).double().cpu())
        high = torch.maximum(high, each.amax(0).double().cpu())
    return (square / (number - 1) if number > 1 else None), high - low


def _weighted(z: Tensor, q: Tensor) -> Tensor:
    """Sum over trajectories of ``Z q``, ``(T, m)``."""
    # A product of matrices with one column is many times slower than the sum that it stands for.
    found = (z[..., 0] * q).sum(1, keepdim=True) if z.shape[-1] == 1 else (q[:, None, :] @ z)[:, 0]
    return found.double().cpu()


class _Sums:
    """Running sums over chunks, in double precision."""

    def __init__(self, times: int, num_parameters: int, *, observe: bool) -> None:
        def zeros() -> Tensor:
            return torch.zeros(times, num_parameters, dtype=torch.float64)

        self.z, self.zq, self.zz, self.zzq = zeros(), zeros(), zeros(), zeros()
        self.observe = observe
        self.number = self.steps = 0
        self.returns = self._square_returns = self._shift = 0.0
        self.observed = Observed()

    def add(self, z: Tensor, q: Tensor) -> None:
        times = len(z)
        if times > len(self.z):
            raise InputError(f"horizon must be at least the length of the episodes, got {len(self.z)} and {times}")
        total = z.sum(1).double().cpu()
        self.z[:times] += total
        self.z[times:] += total[-1]
        self.zq[:times] += _weighted(z, q)
        square = z.square()
        total = square.sum(1).double().cpu()
        self.zz[:times] += total
        self.zz[times:] += total[-1]
        self.zzq[:times] += _weighted(square, q)

    def watch(self, chunk: Episodes, discount: float) -> None:
        returns = chunk.returns(discount).double()
        if self.number == 0:
            self._shift = float(returns[0])  # near the mean, so that the sum of squares does not cancel
        self.number += len(chunk)
        self.steps += chunk.num_steps
        self.returns += float(returns.sum())
        self._square_returns += float((returns - self._shift).square().sum())
        if self.observe:
            self.observed = self.observed.with_chunk(chunk)

    def baseline(self) -> Tensor:
        # Where no trajectory has a score the quotient is 0/0, and any baseline does.
        return self.zzq / torch.where(self.zz == 0, 1.0, self.zz)

    def return_variance(self) -> float:
        if self.number < 2:
            return math.nan
        mean = self.returns / self.number - self._shift
        return max(0.0, (self._square_returns - self.number * mean**2) / (self.number - 1))
