"""The practice version on the cart-pole: it learns from nothing, and the policies in force do not get worse."""

import itertools

import pytest
import torch

from batchwright.rl import CartPoleSampler, GaussianPolicy, SafePolicyGradient

PRACTICE = {
    "delta": 0.1,
    "bound": "bernstein",
    "value_range": "empirical",
    "constants": "observed",
    "baseline": "batch",
    "max_batch_size": 10_000,
}


def mean_return(theta):
    """Discounted, which is what is climbed; at most 86.6."""
    policy = GaussianPolicy(4, 1, std=1.0).at(theta)
    returns = torch.cat([chunk.returns(0.99) for chunk in CartPoleSampler().collect(policy, 2000, seed=999)])
    return float(returns.mean()), float(returns.std()) / 2000**0.5


@pytest.fixture(scope="module")
def tried():
    trainer = SafePolicyGradient(
        CartPoleSampler(), GaussianPolicy(4, 1, std=1.0), budget=60_000, curvature="tried", seed=0, **PRACTICE
    )
    return trainer.guarantee, trainer.train()


def test_with_the_curvature_on_trial_the_return_doubles_and_no_policy_in_force_is_worse_than_the_one_before(tried):
    guarantee, run = tried
    assert not guarantee.holds
    assert any("curvature is what trial steps showed" in line for line in guarantee.lines)
    in_force = [torch.zeros(4, dtype=torch.float64)]
    for update, judging in itertools.pairwise(run.updates):
        if update.step_size > 0 and not judging.taken_back:
            in_force.append(torch.tensor(update.theta, dtype=torch.float64))
    looks = [mean_return(theta) for theta in in_force]
    assert looks[0][0] < 34
    assert mean_return(run.policy.theta)[0] > 68
    for before, after in itertools.pairwise(looks):
        assert after[0] > before[0] - 1.96 * (before[1] ** 2 + after[1] ** 2) ** 0.5


def test_a_step_that_is_taken_back_leads_to_where_it_began(tried):
    updates = tried[1].updates
    before = {update.step: update.theta for update in updates}
    back = [update for update in updates if update.taken_back]
    assert back
    for update in back:
        assert update.theta == before[update.step - 2]
        assert update.step_size == update.guaranteed_improvement == 0


def test_with_the_constants_of_the_data_alone_nothing_moves_that_one_could_see():
    trainer = SafePolicyGradient(CartPoleSampler(), GaussianPolicy(4, 1, std=1.0), budget=20_000, seed=0, **PRACTICE)
    assert trainer.train().policy.theta.abs().max() < 0.01
