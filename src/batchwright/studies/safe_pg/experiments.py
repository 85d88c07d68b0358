"""The experiments of the study; each is a cell."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from batchwright.rl import (
    LQG,
    GaussianPolicy,
    SafeOptions,
    SafePolicyGradient,
    SafeRun,
    estimate_gradient,
    optimal_step,
)
from batchwright.rl.lqg_exact import clipped_return, paired_improvement, unclipped_return
from batchwright.rl.smoothness import published_curvature
from batchwright.rl.update import one_update
from batchwright.rl.update_record import RunState
from batchwright.rl.variance_bounds import gpomdp_variance, reinforce_variance
from batchwright.studies.safe_pg.published import AS_PUBLISHED
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

CURVE_POINTS = 120
# Costs over the number of dimensions, so that rewards stay within 4; the horizon and delta keep the batches affordable.
DIMENSIONS = {1: (20, 0.2), 2: (10, 0.2), 5: (6, 0.5)}
BOUNDS: Mapping[str, Mapping[str, Any]] = {
    "chebyshev": {},
    "minkowski": {"variance_form": "minkowski"},
    "reinforce": {"estimator": "reinforce"},
    "bernstein": {"bound": "bernstein", "value_range": "empirical"},
    "hoeffding": {"bound": "hoeffding", "value_range": "empirical"},
}
PILOT = 1000
FIRST_PAIRS, MOST_PAIRS = 5000, 320_000


def closed_forms(place: Place) -> Mapping[str, Any]:
    """Constants of the rules, and the returns without boxes and end."""
    grad, d = torch.tensor([2.0], dtype=torch.float64), 1e6
    published = optimal_step(grad, d=d, smoothness=3.0, rule="published")
    tight = optimal_step(grad, d=d, smoothness=3.0)
    env = LQG()
    theta = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    for _ in range(50):  # Newton, from a second derivative by automatic differentiation
        (slope,) = torch.autograd.grad(unclipped_return(env, theta), theta, create_graph=True)
        (bend,) = torch.autograd.grad(slope, theta)
        theta = (theta - slope / bend).detach().requires_grad_()
    start, best = torch.zeros(1, dtype=torch.float64), theta.detach()
    setting = {"reward_bound": 4.0, "kappa": 4.0, "discount": 0.9, "horizon": 20}
    return {
        "published_batch": published.batch_size * 4 / d**2,
        "published_error": published.error / 2,
        "published_step": published.step_size * 3,
        "published_gain": published.guaranteed_improvement * 3 / 4,
        "tight_batch": tight.batch_size * 4 / d**2,
        "tight_step": tight.step_size * 3,
        "tight_gain": tight.guaranteed_improvement * 3 / 4,
        "curvature": published_curvature(reward_bound=5.0, feature_bound=2.0, std=0.1, action_volume=4.0, discount=0.9),
        "variance_reinforce": reinforce_variance(reward_bound=4.0, kappa=4.0, discount=0.9, horizon=20),
        "variance_published": gpomdp_variance(reward_bound=4.0, kappa=4.0, discount=0.9, horizon=20, form="published"),
        "variance_valid": gpomdp_variance(reward_bound=4.0, kappa=4.0, discount=0.9, horizon=20),
        "variance_minkowski": gpomdp_variance(reward_bound=4.0, kappa=4.0, discount=0.9, horizon=20, form="minkowski"),
        "start_return": float(unclipped_return(env, start)),
        "best_theta": float(best),
        "best_return": float(unclipped_return(env, best)),
        "setting": setting,
    }


def published_run(place: Place, *, options: Mapping[str, Any], budget: int, seed: int) -> Mapping[str, Any]:
    """One run of the paper's table, with its mistakes: what it earned, where it came to, and its curve."""
    env = LQG(clip_recorded=True)
    run = SafePolicyGradient(env, GaussianPolicy(1, 1), budget=budget, seed=seed, **{**AS_PUBLISHED, **options}).train()
    returns = [float(unclipped_return(env, _theta(update.theta))) for update in run.updates]
    total = math.fsum(update.batch_size * update.mean_return for update in run.updates)
    used = [update.num_trajectories for update in run.updates]
    return {
        "average": total / run.num_trajectories,
        "final": returns[-1],
        "updates": len(run.updates),
        "decreases": sum(after < before for before, after in pairwise(returns)),
        "first_batch": run.updates[1].batch_size,
        "last_batch": run.updates[-1].next_batch_size,
        "curve": _thin(used, returns),
        "num_gradients": float(run.updates[-1].num_steps),
    }


SCORES = {"raw": (False, "batch"), "clipped": (True, "none"), "clipped-baseline": (True, "batch")}


def scores(place: Place, *, theta: float, num_episodes: int, seed: int) -> Mapping[str, Any]:
    """Gradient by the score of the raw and of the clipped action beside the exact one of the sampled return."""
    at = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(clipped_return(LQG(), at), at)
    policy = GaussianPolicy(1, 1).at(at)
    found: dict[str, Any] = {"exact": float(exact)}
    for name, (clip, baseline) in SCORES.items():
        env = LQG(clip_recorded=clip)
        estimate = estimate_gradient(
            policy,
            lambda env=env: env.collect(policy, num_episodes, seed),  # type: ignore[misc]
            discount=env.discount,
            horizon=env.horizon,
            baseline=baseline,
        )
        assert estimate.variance is not None
        found[name] = float(estimate.gradient)
        found[f"{name}_error"] = math.sqrt(float(estimate.variance) / num_episodes)
    return {**found, "num_gradients": 60.0 * num_episodes}


def counterexample(place: Place, *, discount: float, horizon: int, num_episodes: int, seed: int) -> Mapping[str, Any]:
    """Variance where rewards are ``xi sign(Z_t)``: the mean of ``(sum_t gamma^t |Z_t|)²``, beside the three formulas."""
    generator = stream(seed, "counterexample", horizon, round(1000 * discount))
    weights = discount ** torch.arange(horizon, dtype=torch.float64)
    total = square = 0.0
    chunk = max(1, 2_000_000 // horizon)
    for first in range(0, num_episodes, chunk):
        number = min(chunk, num_episodes - first)
        walk = torch.randn(number, horizon, generator=generator, dtype=torch.float64).cumsum(1).abs()
        values = (walk @ weights).square()
        total += float(values.sum())
        square += float(values.square().sum())
    mean = total / num_episodes
    unit = {
        form: gpomdp_variance(reward_bound=1.0, kappa=1.0, discount=discount, horizon=horizon, form=form)
        for form in ("published", "cauchy-schwarz", "minkowski")
    }
    return {
        "variance": mean,
        "error": math.sqrt((square / num_episodes - mean**2) / num_episodes),
        **unit,
    }


def audit(place: Place, *, options: Mapping[str, Any], budget: int, seed: int) -> Mapping[str, Any]:
    """A run that keeps its promise: raw actions, valid variance, and the exact return of what is sampled."""
    env = LQG()
    run = SafePolicyGradient(env, GaussianPolicy(1, 1), budget=budget, seed=seed, **options).train()
    return {**_course(env, run), "holds": run.guarantee.holds, "num_gradients": float(run.updates[-1].num_steps)}


def single_updates(place: Place, *, dim: int, bound: str, first: int, count: int, seed: int) -> Mapping[str, Any]:
    """Single updates from random parameters: did the true return fall, and how large are the promises beside what came.

    A pilot batch says how large the batch is to be, as the batch before does in a run; the update starts from the same parameters.
    """
    horizon, delta = DIMENSIONS[dim]
    env = LQG(dim, horizon=horizon, state_cost=0.5 / dim, action_cost=0.5 / dim)
    found: dict[str, list[Any]] = {
        name: [] for name in ("gain", "low", "high", "promise", "error_bound", "error", "batch_size", "moved")
    }
    steps = 0
    for number in range(first, first + count):
        generator = stream(seed, "updates", dim, number)
        uniform = torch.rand(dim, dim + 1, generator=generator, dtype=torch.float64)
        start = 0.2 * (uniform[:, :dim] - 0.5) + torch.diag(0.6 * uniform[:, dim])
        policy = GaussianPolicy(dim, dim).at(start.flatten())
        options = SafeOptions(
            delta=delta,
            budget=10**9,
            max_batch_size=3_000_000,
            seed=1000 * seed + number,
            **BOUNDS[bound],
        )
        after_pilot, _ = one_update(env, policy, options, RunState(theta=policy.theta, batch_size=PILOT))
        state = replace(after_pilot, theta=policy.theta)
        after, update = one_update(env, policy, options, state)
        steps += after.num_steps
        gain, low, high = _true_change(env, policy, policy.at(after.theta), seed=number)
        found["moved"].append(update.step_size > 0)
        found["gain"].append(gain)
        found["low"].append(low)
        found["high"].append(high)
        found["promise"].append(update.guaranteed_improvement)
        found["error_bound"].append(update.error_sqrt + update.error_linear)
        found["error"].append(_true_error(env, policy, after.theta, update.step_size) if dim == 1 else None)
        found["batch_size"].append(update.batch_size)
    return {**found, "delta": delta, "num_gradients": float(steps)}


def _true_change(env: LQG, before: GaussianPolicy, after: GaussianPolicy, seed: int) -> tuple[float, float, float]:
    """Change of the exact return in one dimension; otherwise from common random numbers, until its sign is plain."""
    if torch.equal(before.theta, after.theta):
        return 0.0, 0.0, 0.0
    if env.dim == 1:
        gain = float(clipped_return(env, after.theta) - clipped_return(env, before.theta))
        return gain, gain, gain
    pairs = FIRST_PAIRS
    while True:
        found = paired_improvement(env, before, after, num_episodes=pairs, seed=seed, level=0.999)
        if found.low > 0 or found.high < 0 or pairs >= MOST_PAIRS:
            return found.value, found.low, found.high
        pairs *= 4


def _true_error(env: LQG, policy: GaussianPolicy, after: Tensor, step_size: float) -> float | None:
    """Error of the estimated gradient, read back from the step that was made of it."""
    if step_size == 0:
        return None
    at = policy.theta.requires_grad_()
    (exact,) = torch.autograd.grad(clipped_return(env, at), at)
    return abs(float((after - policy.theta) / step_size - exact))


def _course(env: LQG, run: SafeRun) -> dict[str, Any]:
    returns = [float(clipped_return(env, _theta(update.theta))) for update in run.updates]
    before = [float(clipped_return(env, torch.zeros(1))), *returns]
    moved = [update.step_size > 0 for update in run.updates]
    return {
        "start": before[0],
        "final": returns[-1],
        "theta": run.updates[-1].theta[0],
        "updates": len(run.updates),
        "moves": sum(moved),
        "decreases": sum(after < first for first, after in zip(before, returns, strict=False)),
        "promised": math.fsum(update.guaranteed_improvement for update in run.updates),
        "curve": _thin([update.num_trajectories for update in run.updates], returns),
    }


def _theta(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _thin(x: list[int], y: list[float]) -> list[list[float]]:
    gap = max(1, len(x) / CURVE_POINTS)
    places = sorted({min(len(x) - 1, int(i * gap)) for i in range(CURVE_POINTS)} | {len(x) - 1})
    return [[float(x[i]), y[i]] for i in places]
