"""The continuous cart-pole against Gymnasium's discrete one, and against one episode at a time."""

import warnings

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.rl import GaussianPolicy, Sampler, SoftmaxPolicy
from batchwright.rl.cart_pole import CartPoleSampler, cart_pole_fell, cart_pole_step

gymnasium = pytest.importorskip("gymnasium")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_full_force_is_the_discrete_cart_pole(seed):
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=seed)
    state = torch.tensor(env.state, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    fell = False
    while not fell:
        action = int(torch.randint(2, (), generator=generator))
        _, _, fell, _, _ = env.step(action)
        # More than ten newton is clipped to ten.
        state = cart_pole_step(state, torch.tensor(25.0 if action else -10.0, dtype=torch.float64))
        torch.testing.assert_close(state, torch.tensor(env.state), rtol=1e-13, atol=1e-14)
        assert bool(cart_pole_fell(state)) == fell


def test_no_force_lets_the_pole_fall_as_the_linear_pendulum_does():
    # For small angles the upright pole has rate² = g / (l (4/3 - m/M)) when nothing pushes the cart, here by explicit Euler.
    rate = (9.8 / (0.5 * (4 / 3 - 0.1 / 1.1))) ** 0.5
    state = torch.tensor([0.0, 0.0, 1e-6, rate * 1e-6], dtype=torch.float64)
    for _ in range(50):
        state = cart_pole_step(state, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(state[2].item(), 1e-6 * (1 + 0.02 * rate) ** 50, rtol=1e-6, atol=0)


def test_episodes_are_those_of_one_at_a_time_with_the_recorded_forces():
    policy = GaussianPolicy(4, 1, std=8.0).at(torch.tensor([1.0, 2.0, 15.0, 4.0], dtype=torch.float64))
    (episodes,) = CartPoleSampler(dtype=torch.float64).collect(policy, 64, seed=3)
    assert episodes.terminated.any()
    assert (episodes.actions[..., 0].abs() > 10).any()  # recorded as drawn, not as clipped
    for index in range(64):
        length = int(episodes.mask[index].sum())
        state = episodes.observations[index, 0]
        assert state.abs().max() <= 0.05
        for step in range(length):
            torch.testing.assert_close(episodes.observations[index, step], state)
            assert not bool(cart_pole_fell(state))
            state = cart_pole_step(state, episodes.actions[index, step, 0])
        assert bool(episodes.terminated[index]) == bool(cart_pole_fell(state))
        assert bool(episodes.truncated[index]) == (length == 200 and not bool(cart_pole_fell(state)))
    assert torch.equal(episodes.rewards, episodes.mask.double())


def test_starts_are_uniform():
    (episodes,) = CartPoleSampler(horizon=1).collect(GaussianPolicy(4, 1), 4000, seed=0)
    starts = episodes.observations[:, 0] / 0.05
    assert starts.abs().max() < 1
    # Mean 0 and mean square 1/3, with the variances 1/3 and 4/45 of a uniform draw.
    assert starts.mean(0).abs().max() < 4 * (1 / 3 / 4000) ** 0.5
    assert (starts.square().mean(0) - 1 / 3).abs().max() < 4 * (4 / 45 / 4000) ** 0.5


def test_the_same_seed_gives_the_same_episodes_in_chunks_of_bounded_size():
    sampler, policy = CartPoleSampler(chunk_size=10), GaussianPolicy(4, 1, std=0.1)
    assert isinstance(sampler, Sampler)
    first, again = list(sampler.collect(policy, 25, seed=7)), list(sampler.collect(policy, 25, seed=7))
    assert [len(chunk) for chunk in first] == [10, 10, 5]
    assert all(torch.equal(one.observations, two.observations) for one, two in zip(first, again, strict=True))
    other = next(sampler.collect(policy, 25, seed=8))
    assert not torch.equal(first[0].observations[:, 0], other.observations[:, 0])
    sampler.close()


def test_a_discrete_policy_is_refused():
    with pytest.raises(InputError, match="CartPole-v1 is the discrete environment"):
        CartPoleSampler().collect(SoftmaxPolicy(4, 2), 1, seed=0)


def test_the_registered_environment_has_the_same_dynamics_and_passes_gymnasiums_own_check():
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make("batchwright.rl.cart_pole_env:batchwright/CartPoleForce-v0")
    # It warns that forces are in newton, not in [-1, 1], and that velocities have no bound.
    with warnings.catch_warnings(action="ignore"):
        check_env(env.unwrapped, skip_render_check=True)
    observation, _ = env.reset(seed=5)
    state = torch.from_numpy(observation).double()
    forces = [-3.0, 12.0, 0.5]
    for force in forces:
        observation, reward, *_ = env.step([force])
        state = cart_pole_step(state, torch.tensor(force, dtype=torch.float64))
        assert reward == 1.0
        torch.testing.assert_close(torch.from_numpy(observation).double(), state, rtol=1e-6, atol=1e-7)
    assert env.spec.max_episode_steps == 200
