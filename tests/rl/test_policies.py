"""Policies: scores against automatic differentiation, draws against their law, constants against quadrature."""

import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.rl import GaussianPolicy, Policy, Smoothing, SoftmaxPolicy

POLICIES = {
    "gaussian": lambda: GaussianPolicy(3, 2, std=0.7),
    "gaussian one dimension": lambda: GaussianPolicy(1, 1, std=0.7),
    "gaussian learned std": lambda: GaussianPolicy(3, 2, std=(0.7, 1.3), learn_std=True),
    "gaussian network": lambda: GaussianPolicy(3, 2, hidden=(5, 4), learn_std=True, seed=1),
    "gaussian features": lambda: GaussianPolicy(
        3, 2, features=lambda s: torch.cat([s, s.square()], -1), num_features=6, feature_bound=4.0
    ),
    "softmax": lambda: SoftmaxPolicy(3, 4, temperature=0.8),
    "softmax network": lambda: SoftmaxPolicy(3, 4, temperature=0.8, hidden=(5,), seed=1),
}


def somewhere(policy: Policy) -> Policy:
    generator = torch.Generator().manual_seed(2)
    return policy.at(policy.theta + 0.5 * torch.randn(policy.num_parameters, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("name", POLICIES)
def test_the_score_is_the_gradient_of_the_log_probability(name):
    policy = somewhere(POLICIES[name]())
    assert isinstance(policy, Policy)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(7, 2, 1 if "one" in name else 3, generator=generator, dtype=torch.float64)
    actions = policy.sample(states, generator)
    found = policy.score(states, actions)
    assert found.shape == (7, 2, policy.num_parameters)
    step = 1e-6
    for k in range(policy.num_parameters):
        move = torch.zeros(policy.num_parameters, dtype=torch.float64)
        move[k] = step
        up, down = (policy.at(policy.theta + sign * move).log_prob(states, actions) for sign in (1, -1))
        torch.testing.assert_close(found[..., k], (up - down) / (2 * step), atol=1e-6, rtol=1e-6)


def test_gaussian_draws_have_the_mean_and_standard_deviation():
    policy = GaussianPolicy(2, 2, std=(0.5, 2.0)).at(torch.tensor([1.0, 0.0, 0.0, -1.0], dtype=torch.float64))
    states = torch.tensor([[1.0, 2.0]]).expand(100_000, 2)
    actions = policy.sample(states, torch.Generator().manual_seed(0))
    error = torch.tensor([0.5, 2.0]) / 100_000**0.5
    assert ((actions.mean(0) - torch.tensor([1.0, -2.0])).abs() < 4 * error).all()
    assert ((actions.std(0) - torch.tensor([0.5, 2.0])).abs() < 4 * error).all()


def test_softmax_draws_have_their_probabilities():
    policy = somewhere(SoftmaxPolicy(2, 3, temperature=0.5))
    states = torch.tensor([[1.0, -0.5]]).expand(100_000, 2)
    found = torch.bincount(policy.sample(states, torch.Generator().manual_seed(0)), minlength=3) / 100_000
    for action in range(3):
        share = float(policy.log_prob(states[:1], torch.tensor([action])).exp())
        assert abs(float(found[action]) - share) < 4 * math.sqrt(share * (1 - share) / 100_000)


def test_log_probabilities_integrate_to_one():
    policy = somewhere(GaussianPolicy(1, 1, std=0.7))
    actions = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    states = torch.full_like(actions, 0.3)
    assert abs(float(torch.trapezoid(policy.log_prob(states, actions).exp(), actions[:, 0])) - 1) < 1e-10
    softmax = somewhere(SoftmaxPolicy(1, 3))
    total = sum(softmax.log_prob(torch.ones(1, 1), torch.tensor([a])).exp() for a in range(3))
    assert abs(float(total) - 1) < 1e-6


def test_gaussian_constants_are_those_of_the_table():
    # M = 2, sigma = 0.5: 2M/(sqrt(2 pi) sigma), M²/sigma², M²/sigma².
    found = GaussianPolicy(1, 1, std=0.5).smoothing(2.0)
    assert found.psi == pytest.approx(2 * 2 / (math.sqrt(2 * math.pi) * 0.5))
    assert (found.kappa, found.xi) == pytest.approx((16.0, 16.0))


@pytest.mark.parametrize(("actions", "features"), [(1, 1), (2, 3), (5, 5)])
def test_gaussian_constants_are_reached_at_the_largest_features(actions, features):
    policy = GaussianPolicy(features, actions, std=0.5)
    states = torch.full((200_000, features), 2.0)  # at the bound, so that the moments are the constants themselves
    norms = policy.score(states, policy.sample(states, torch.Generator().manual_seed(0))).norm(dim=-1)
    constants = policy.smoothing(2.0)
    for values, constant in ((norms, constants.psi), (norms.square(), constants.kappa)):
        assert abs(float(values.mean()) - constant) < 4 * float(values.std()) / len(values) ** 0.5


def test_constants_of_the_logarithm_of_the_standard_deviation_are_moments_of_a_gaussian():
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    density = (-0.5 * x.square()).exp() / math.sqrt(2 * math.pi)
    psi = float(torch.trapezoid((x.square() - 1).abs() * density, x))
    kappa = float(torch.trapezoid((x.square() - 1).square() * density, x))
    found = GaussianPolicy(1, 1, std=1.0, learn_std=True).coordinate_smoothing(1e-3)
    assert (found.psi, found.kappa, found.xi) == pytest.approx((psi, kappa, 2.0), rel=1e-6)


def test_softmax_constants_bound_the_moments_everywhere():
    policy, bound = SoftmaxPolicy(2, 3, temperature=0.5), 1.5
    generator = torch.Generator().manual_seed(0)
    whole, one = policy.smoothing(bound), policy.coordinate_smoothing(bound)
    assert (whole.psi, whole.kappa, whole.xi) == pytest.approx(
        (2 * bound * 2**0.5 / 0.5, 4 * 2 * bound**2 / 0.25, 2 * 2 * bound**2 / 0.25)
    )
    largest = 0.0
    for _ in range(200):
        at = policy.at(torch.randn(6, generator=generator, dtype=torch.float64))
        states = (2 * torch.rand(50, 2, generator=generator, dtype=torch.float64) - 1) * bound
        # Exact expectations over the three actions.
        weights = torch.stack([at.log_prob(states, torch.full((50,), a)).exp() for a in range(3)])
        scores = torch.stack([at.score(states, torch.full((50,), a)) for a in range(3)])
        assert float(scores.norm(dim=-1).max()) <= whole.score_bound
        assert float((weights * scores.norm(dim=-1)).sum(0).max()) <= whole.psi
        assert float((weights[..., None] * scores.abs()).sum(0).max()) <= one.psi * (1 + 1e-12)
        square = float((weights[..., None] * scores.square()).sum(0).max())
        assert square <= one.kappa * (1 + 1e-12)
        largest = max(largest, square)
    assert largest > 0.8 * one.kappa  # the bound is not slack by more than the draws miss of it


def test_a_network_has_no_constants_unless_they_are_given():
    assert GaussianPolicy(2, 1, hidden=(4,)).smoothing(1.0) is None
    assert SoftmaxPolicy(2, 2, hidden=(4,)).coordinate_smoothing(1.0) is None
    given = Smoothing(psi=1.0, kappa=2.0, xi=3.0)
    assert GaussianPolicy(2, 1, hidden=(4,), smoothing=given).smoothing(1.0) == given


def test_a_policy_is_a_value():
    policy = GaussianPolicy(2, 1)
    before = policy.theta
    other = policy.at(torch.ones(2))
    before += 7
    assert policy.theta.tolist() == [0.0, 0.0]
    assert other.theta.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianPolicy(1, 2, std=(1.0,)), "std must hold one number or one an action"),
        (lambda: GaussianPolicy(1, 1, std=0.0), "std must be a finite number and above 0"),
        (lambda: GaussianPolicy(1, 1, num_features=3), "features and num_features must be given together"),
        (lambda: SoftmaxPolicy(1, 1), "num_actions must be an integer of at least 2"),
        (lambda: SoftmaxPolicy(1, 2).at(torch.zeros(3)), "theta must have shape"),
        (
            lambda: GaussianPolicy(1, 1, features=lambda s: s, num_features=1).smoothing(1.0),
            "feature_bound must be given",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
