"""The LQG: its simulation against a plain loop, its exact returns against simulation and published numbers."""

import math

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.core.statistics import mean_interval
from batchwright.rl import GaussianPolicy, Sampler, SoftmaxPolicy
from batchwright.rl.estimators import estimate_gradient
from batchwright.rl.lqg import LQG
from batchwright.rl.lqg_exact import clipped_return, paired_improvement, unclipped_return

DYNAMICS = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64)
COST = torch.tensor([[0.6, 0.2], [0.2, 0.5]], dtype=torch.float64)
GAIN = torch.tensor([-0.4, 0.1, 0.2, -0.3], dtype=torch.float64)


def test_the_simulation_is_that_of_the_plain_loop():
    env = LQG(2, horizon=7, state_cost=COST, action_cost=0.3, dynamics=DYNAMICS, control=COST, max_action=0.8)
    policy = GaussianPolicy(2, 2, std=(0.5, 1.5)).at(GAIN)
    assert isinstance(env, Sampler)
    (episodes,) = list(env.collect(policy, 5, seed=3))
    for i in range(5):
        for t in range(7):
            s, a = episodes.observations[i, t].double().numpy(), episodes.actions[i, t].double().numpy()
            acted = np.clip(a, -0.8, 0.8)
            reward = -(s @ COST.numpy() @ s + 0.3 * acted @ acted)
            assert float(episodes.rewards[i, t]) == pytest.approx(reward, rel=1e-5)
            if t + 1 < 7:
                after = np.clip(DYNAMICS.numpy() @ s + COST.numpy() @ acted, -2, 2)
                np.testing.assert_allclose(episodes.observations[i, t + 1], after, rtol=1e-5, atol=1e-6)
    assert (episodes.actions.abs() > 0.8).any()  # raw, not clipped
    assert float(-episodes.rewards.min()) <= env.spec.reward_bound
    assert episodes.truncated.all()
    assert not episodes.terminated.any()


def test_the_recorded_action_is_clipped_only_on_request():
    policy = GaussianPolicy(1, 1, std=3.0)
    raw, clipped = (next(LQG(clip_recorded=flag).collect(policy, 50, seed=0)) for flag in (False, True))
    assert torch.equal(raw.rewards, clipped.rewards)
    assert torch.equal(raw.actions.clamp(-2, 2), clipped.actions)
    assert (raw.actions.abs() > 2).any()


def test_the_same_seed_gives_the_same_episodes_whatever_came_between():
    env, policy = LQG(2, horizon=3), GaussianPolicy(2, 2)
    first = [chunk.rewards.clone() for chunk in env.collect(policy, 40_000, seed=5)]
    next(env.collect(policy, 10, seed=6))
    second = [chunk.rewards for chunk in env.collect(policy, 40_000, seed=5)]
    assert len(first) > 1
    assert sum(len(each) for each in first) == 40_000
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], next(env.collect(policy, 40_000, seed=7)).rewards)


def test_the_published_closed_forms():
    env = LQG()
    assert float(unclipped_return(env, torch.zeros(1))) == pytest.approx(-56.666667, abs=5e-7)
    best = torch.tensor([-0.58840], dtype=torch.float64)
    assert float(unclipped_return(env, best)) == pytest.approx(-13.20675, abs=5e-6)
    theta = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(unclipped_return(env, theta), theta)
    assert float(slope) == pytest.approx(-930, abs=5)  # the published figure has two digits
    # The formula of the specification, in one dimension.
    for value in (-0.9, -0.3, 0.0):
        p = (0.5 + 0.5 * value**2) / (1 - 0.9 * (1 + value) ** 2)
        written = -(4 / 3) * p - 10 * (0.5 + 0.9 * p)
        assert float(unclipped_return(env, torch.tensor([value], dtype=torch.float64))) == pytest.approx(
            written, rel=1e-12
        )


@pytest.mark.parametrize(("theta", "slope"), [(0.0, -9.79), (-0.3, -3.87), (-0.588, -0.50)])
def test_the_gradient_of_the_clipped_return_is_the_published_finite_difference(theta, slope):
    env = LQG()
    at = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(clipped_return(env, at), at)
    assert float(found) == pytest.approx(slope, abs=0.006)
    values = [float(clipped_return(env, torch.tensor([theta + step], dtype=torch.float64))) for step in (1e-5, -1e-5)]
    assert float(found) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("dim", "theta", "std"), [(1, (-0.4,), 1.0), (1, (0.7,), 2.5), (2, (-0.5, 0.0, 0.0, 0.3), 0.5)]
)
def test_the_clipped_return_is_that_of_simulation(dim, theta, std):
    env = LQG(dim, horizon=8, state_cost=0.7, action_cost=0.3, start=1.5)
    at = torch.tensor(theta, dtype=torch.float64)
    policy = GaussianPolicy(dim, dim, std=std).at(at)
    returns = torch.cat([chunk.returns(0.9) for chunk in env.collect(policy, 200_000, seed=1)]).double().numpy()
    exact = float(clipped_return(env, at, std=std))
    assert abs(returns.mean() - exact) < 4 * returns.std() / math.sqrt(len(returns))


def test_the_unclipped_return_is_that_of_simulation_in_large_boxes():
    big = {"max_state": 1e3, "max_action": 1e3, "start": 2.0}
    env = LQG(2, horizon=12, state_cost=COST, action_cost=0.3, dynamics=DYNAMICS, control=COST, **big)
    policy = GaussianPolicy(2, 2, std=0.7).at(GAIN)
    returns = torch.cat([chunk.returns(0.9) for chunk in env.collect(policy, 200_000, seed=1)]).double().numpy()
    exact = float(unclipped_return(env, GAIN, std=0.7, horizon=12))
    assert abs(returns.mean() - exact) < 4 * returns.std() / math.sqrt(len(returns))


def test_the_return_without_an_end_is_the_limit_of_long_horizons():
    env = LQG(2, state_cost=COST, action_cost=0.3, dynamics=DYNAMICS, control=COST)
    limit = float(unclipped_return(env, GAIN, std=0.7))
    assert float(unclipped_return(env, GAIN, std=0.7, horizon=600)) == pytest.approx(limit, rel=1e-10)


def test_the_gradient_of_the_unclipped_return_is_that_of_the_estimator_in_large_boxes():
    env = LQG(
        2, horizon=6, state_cost=COST, action_cost=0.3, dynamics=DYNAMICS, max_state=1e3, max_action=1e3, start=2.0
    )
    theta = GAIN.clone().requires_grad_()
    (exact,) = torch.autograd.grad(unclipped_return(env, theta, std=0.7, horizon=6), theta)
    policy = GaussianPolicy(2, 2, std=0.7).at(GAIN)
    found = estimate_gradient(policy, lambda: env.collect(policy, 100_000, seed=0), discount=0.9, horizon=6)
    error = (found.variance / found.num_trajectories).sqrt()
    assert ((found.gradient - exact).abs() < 4 * error).all()


def test_paired_improvement_is_the_difference_of_exact_returns():
    env = LQG()
    before, after = (torch.tensor([value], dtype=torch.float64) for value in (-0.2, -0.21))
    exact = float(clipped_return(env, after) - clipped_return(env, before))
    policies = [GaussianPolicy(1, 1).at(theta) for theta in (before, after)]
    found = paired_improvement(env, *policies, num_episodes=40_000, seed=0)
    half = found.high - found.value
    assert abs(found.value - exact) < 2 * half
    # Apart from one another the two returns would need thousands of times the episodes for the same error.
    returns = torch.cat([chunk.returns(0.9) for chunk in env.collect(policies[0], 40_000, seed=0)]).double().numpy()
    alone = mean_interval(returns)
    assert half < 0.05 * (alone.high - alone.value)


def test_what_cannot_be_exact_says_what_can():
    theta = torch.tensor([-0.5, 0.1, 0.0, -0.5], dtype=torch.float64)
    with pytest.raises(InputError, match="paired_improvement"):
        clipped_return(LQG(2), theta)
    with pytest.raises(InputError, match="theta must keep discount"):
        unclipped_return(LQG(), torch.tensor([0.5], dtype=torch.float64))
    with pytest.raises(InputError, match="dynamics must have shape"):
        LQG(2, dynamics=torch.eye(3))
    with pytest.raises(InputError, match="policy must give continuous actions"):
        next(LQG().collect(SoftmaxPolicy(1, 2), 1, seed=0))
