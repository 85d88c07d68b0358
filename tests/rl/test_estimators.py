"""Gradient estimators against a slow plain loop, an enumeration of all trajectories, and the exact gradient of an LQG."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.rl import Episodes, GaussianPolicy, SoftmaxPolicy
from batchwright.rl import estimators as module
from batchwright.rl.estimators import ESTIMATORS, estimate_gradient, trajectory_gradients
from batchwright.rl.lqg import LQG
from batchwright.rl.lqg_exact import clipped_return

DISCOUNT = 0.8


def random_episodes(number: int, horizon: int, seed: int) -> Episodes:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, horizon + 1, (number,), generator=generator)
    mask = torch.arange(horizon) < lengths[:, None]
    ended = lengths < horizon
    return Episodes(
        observations=torch.randn(number, horizon, 2, generator=generator, dtype=torch.float64),
        actions=torch.randn(number, horizon, 2, generator=generator, dtype=torch.float64),
        rewards=torch.randn(number, horizon, generator=generator, dtype=torch.float64),  # padding holds anything
        mask=mask,
        terminated=ended,
        truncated=~ended,
    )


def plain(
    policy: GaussianPolicy, chunks: list[Episodes], horizon: int, estimator: str, with_baseline: bool
) -> np.ndarray:
    """Each trajectory's estimate by loops over trajectories, times and coordinates."""
    sums, rewards = [], []
    for chunk in chunks:
        for i in range(len(chunk)):
            z = np.zeros((horizon, policy.num_parameters))
            q = np.zeros(horizon)
            total = np.zeros(policy.num_parameters)
            for t in range(horizon):
                if t < chunk.horizon and chunk.mask[i, t]:
                    total = total + policy.score(chunk.observations[i, t], chunk.actions[i, t]).numpy()
                    q[t] = DISCOUNT**t * float(chunk.rewards[i, t])
                z[t] = total
            if estimator == "reinforce":
                z, q = z[-1:], np.array([q.sum()])
            sums.append(z)
            rewards.append(q)
    z, q = np.stack(sums), np.stack(rewards)
    baseline = np.zeros(z.shape[1:])
    if with_baseline:
        for t in range(z.shape[1]):
            for k in range(z.shape[2]):
                weight = (z[:, t, k] ** 2).mean()
                baseline[t, k] = (z[:, t, k] ** 2 * q[:, t]).mean() / weight if weight else 0.0
    return (z * (q[:, :, None] - baseline)).sum(1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("with_baseline", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_estimates_are_those_of_the_plain_loop(estimator, with_baseline, kept, monkeypatch):
    if not kept:
        monkeypatch.setattr(module, "KEEP_BYTES", 0)
    policy = GaussianPolicy(2, 2, std=0.7, learn_std=True)
    # Chunks of other lengths, one of which ends before the horizon.
    chunks = [random_episodes(7, 6, 0), random_episodes(5, 4, 1)]
    found = estimate_gradient(
        policy,
        lambda: iter(chunks),
        discount=DISCOUNT,
        horizon=6,
        estimator=estimator,
        baseline="batch" if with_baseline else "none",
    )
    each = plain(policy, chunks, 6, estimator, with_baseline)
    np.testing.assert_allclose(found.gradient, each.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.variance, each.var(0, ddof=1), rtol=1e-10)
    np.testing.assert_allclose(found.value_range, np.ptp(each, axis=0), rtol=1e-10)
    returns = torch.cat([chunk.returns(DISCOUNT) for chunk in chunks]).numpy()
    assert found.mean_return == pytest.approx(returns.mean(), rel=1e-12)
    assert found.return_variance == pytest.approx(returns.var(ddof=1), rel=1e-10)
    assert (found.num_trajectories, found.num_steps) == (12, sum(chunk.num_steps for chunk in chunks))


def all_trajectories(horizon: int) -> Episodes:
    """Every sequence of two actions; action 1 ends the episode with one chance in the enumeration: always, from time 1 on."""
    rows = list(itertools.product([0, 1], repeat=horizon))
    actions = torch.tensor(rows)
    mask = torch.ones(len(rows), horizon, dtype=torch.bool)
    for i, row in enumerate(rows):
        for t in range(1, horizon):
            if row[t] == 1:
                mask[i, t + 1 :] = False
                break
    observations = torch.stack([torch.ones(len(rows), horizon), torch.arange(horizon) + torch.zeros(len(rows), 1)], -1)
    rewards = (1 + 0.5 * actions - 0.2 * torch.arange(horizon)).double()
    ended = ~mask[:, -1]
    return Episodes(
        observations=observations.double(),
        actions=actions,
        rewards=rewards,
        mask=mask,
        terminated=ended,
        truncated=~ended,
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("cut", [False, True])
def test_estimates_have_no_bias_where_episodes_end_early_whatever_the_baseline(estimator, cut):
    """Over all trajectories by their probability the mean is the gradient of the return; baselines at times after the end count."""
    horizon = 4
    policy = SoftmaxPolicy(2, 2).at(torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64))
    episodes = all_trajectories(horizon)

    def probabilities(at: SoftmaxPolicy) -> torch.Tensor:
        # Actions after the end are in the enumeration too: their probabilities sum to one and change nothing.
        return at.log_prob(episodes.observations, episodes.actions).sum(1).exp()

    def value(theta: torch.Tensor) -> float:
        return float(probabilities(policy.at(theta)) @ episodes.returns(DISCOUNT))

    baseline = torch.linspace(-1, 2, 4 * (horizon if estimator == "gpomdp" else 1), dtype=torch.float64).reshape(-1, 4)
    each = trajectory_gradients(policy, episodes, discount=DISCOUNT, estimator=estimator, baseline=baseline)
    if cut:  # the same with a chunk that is no longer than its longest episode
        short = ~episodes.mask[:, 2]
        part = Episodes(
            observations=episodes.observations[short, :2],
            actions=episodes.actions[short, :2],
            rewards=episodes.rewards[short, :2],
            mask=episodes.mask[short, :2],
            terminated=episodes.terminated[short],
            truncated=episodes.truncated[short],
        )
        again = trajectory_gradients(policy, part, discount=DISCOUNT, estimator=estimator, baseline=baseline)
        torch.testing.assert_close(again, each[short], rtol=1e-12, atol=1e-12)
    found = probabilities(policy) @ each
    for k in range(4):
        move = torch.zeros(4, dtype=torch.float64)
        move[k] = 1e-5
        slope = (value(policy.theta + move) - value(policy.theta - move)) / 2e-5
        assert float(found[k]) == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("baseline", ["batch", "none"])
def test_estimates_meet_the_exact_gradient_of_the_clipped_lqg(estimator, baseline):
    env, theta = LQG(), torch.tensor([-0.3], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(clipped_return(env, theta), theta)
    policy = GaussianPolicy(1, 1).at(theta)
    found = estimate_gradient(
        policy,
        lambda: env.collect(policy, 400_000, seed=0),
        discount=env.discount,
        horizon=env.horizon,
        estimator=estimator,
        baseline=baseline,
    )
    error = math.sqrt(float(found.variance) / found.num_trajectories)
    assert abs(float(found.gradient - exact)) < 4 * error
    assert error < 0.03 * abs(float(exact))


def test_baselines_reduce_the_variance_most_for_gpomdp():
    env, policy = LQG(), GaussianPolicy(1, 1)
    variance = {
        (estimator, baseline): float(
            estimate_gradient(
                policy,
                lambda: env.collect(policy, 20_000, seed=0),
                discount=0.9,
                horizon=20,
                estimator=estimator,
                baseline=baseline,
            ).variance
        )
        for estimator in ESTIMATORS
        for baseline in ("batch", "none")
    }
    assert variance["gpomdp", "batch"] < variance["gpomdp", "none"] < variance["reinforce", "none"]
    assert variance["gpomdp", "batch"] < variance["reinforce", "batch"] < variance["reinforce", "none"]


def test_observed_extremes_leave_padding_out():
    episodes = random_episodes(5, 6, 3)
    policy = GaussianPolicy(2, 2)
    found = estimate_gradient(policy, lambda: iter([episodes]), discount=1.0, horizon=6, observe=True).observed
    inside = episodes.actions[episodes.mask]
    assert found.reward == float(episodes.rewards[episodes.mask].abs().max())
    assert found.observation == float(episodes.observations[episodes.mask].abs().max())
    assert found.action_low == tuple(inside.amin(0).tolist())
    assert found.action_high == tuple(inside.amax(0).tolist())
    assert found.action_volume == pytest.approx(float((inside.amax(0) - inside.amin(0)).prod()))
    assert found.action_diameter == pytest.approx(float((inside.amax(0) - inside.amin(0)).norm()))


def test_ten_million_trajectories_fit_in_a_gibibyte():
    code = (
        "import re, torch\n"
        "torch.set_num_threads(1)\n"
        "from batchwright.rl import GaussianPolicy\n"
        "from batchwright.rl.estimators import estimate_gradient\n"
        "from batchwright.rl.lqg import LQG\n"
        "env, policy = LQG(horizon=5), GaussianPolicy(1, 1)\n"
        "found = estimate_gradient(policy, lambda: env.collect(policy, 10**7, 0), discount=.9, horizon=5)\n"
        "assert found.num_trajectories == 10**7 and found.variance is not None\n"
        # Not `ru_maxrss`, which a child begins with its parent's peak.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    source = str(Path(module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": source}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) * 1024 < 2**30


def test_the_interval_of_the_mean_return_is_that_of_the_returns_of_the_trajectories():
    episodes = random_episodes(200, 6, seed=0)
    policy = GaussianPolicy(2, 2, std=0.7)
    found = estimate_gradient(policy, lambda: iter([episodes]), discount=DISCOUNT, horizon=6, estimator="gpomdp")
    weights = DISCOUNT ** torch.arange(6, dtype=torch.float64)
    returns = (episodes.rewards * episodes.mask * weights).sum(1)
    half = 1.959964 * float(returns.std()) / 200**0.5
    interval = found.return_interval()
    assert (interval.low, interval.high) == pytest.approx((float(returns.mean()) - half, float(returns.mean()) + half))


def test_bad_input_is_named():
    policy = GaussianPolicy(2, 2)
    with pytest.raises(InputError, match="collect must give at least 1 episode"):
        estimate_gradient(policy, lambda: iter([]), discount=0.9, horizon=3)
    with pytest.raises(InputError, match="horizon must be at least the length of the episodes, got 3 and 6"):
        estimate_gradient(policy, lambda: iter([random_episodes(2, 6, 0)]), discount=0.9, horizon=3)
    with pytest.raises(InputError, match="estimator must be one of"):
        estimate_gradient(policy, lambda: iter([]), discount=0.9, horizon=3, estimator="ppo")
