"""Rollouts of Gymnasium environments against plain loops, and the traps of counting whole episodes."""

import copy
import os
import subprocess
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError, MissingExtraError
from batchwright.rl import GaussianPolicy, Sampler, SoftmaxPolicy
from batchwright.rl.gym_sampler import GymSampler

gymnasium = pytest.importorskip("gymnasium")
MODES = {mode.value: mode for mode in gymnasium.vector.AutoresetMode}
ROOT = Path(__file__).resolve().parents[2]


def policy_for(sampler, **settings):
    spec = sampler.spec
    if spec.action_dim is None:
        return SoftmaxPolicy(spec.observation_dim, spec.num_actions)
    return GaussianPolicy(spec.observation_dim, spec.action_dim, **settings)


def as_lists(chunks):
    """Each episode without its padding, in one list whatever the chunks, sorted."""
    found = []
    for chunk in chunks:
        assert (chunk.terminated ^ chunk.truncated).all()
        assert chunk.observations.isfinite().all()
        assert chunk.rewards.isfinite().all()
        for index, length in enumerate(chunk.mask.sum(1).tolist()):
            assert chunk.mask[index, :length].all()
            found.append(
                (
                    chunk.observations[index, :length].tolist(),
                    chunk.actions[index, :length].tolist(),
                    chunk.rewards[index, :length].tolist(),
                    bool(chunk.terminated[index]),
                )
            )
    return sorted(found)


class CoinLength(gymnasium.Env):
    """Episodes of 1 or 20 steps with equal chance; the observation counts the steps. Mean return 10.5."""

    observation_space = gymnasium.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.now = int(self.np_random.choice([1, 20])), 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert action in (3, 4)
        assert self.now < self.length, "stepped past the end"
        self.now += 1
        return np.full(1, self.now, np.float32), 1.0, self.now == self.length, False, {}


# The plain loop


def plain_vector_loop(venv, policy, shares, seed):
    """Episodes of a vector environment by lists, one step and one environment at a time."""
    *seeds, policy_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(venv.num_envs + 1))
    generator = torch.Generator().manual_seed(policy_seed)
    one_seed = not isinstance(venv.unwrapped, gymnasium.vector.SyncVectorEnv)
    mode = venv.metadata["autoreset_mode"]
    observations, _ = venv.reset(seed=seeds[0] if one_seed else seeds)
    open_, done = [[] for _ in shares], [[] for _ in shares]
    resetting = np.zeros(len(shares), dtype=bool)
    while any(len(found) < share for found, share in zip(done, shares, strict=True)):
        actions = policy.sample(torch.from_numpy(observations).double(), generator)
        before = observations
        observations, rewards, terminated, truncated, _ = venv.step(actions.numpy())
        for index in range(len(shares)):
            if mode is MODES["NextStep"] and resetting[index]:
                continue
            open_[index].append((before[index].tolist(), int(actions[index]), float(rewards[index])))
            if terminated[index] or truncated[index]:
                if len(done[index]) < shares[index]:
                    done[index].append((*map(list, zip(*open_[index], strict=True)), bool(terminated[index])))
                open_[index] = []
        resetting = terminated | truncated
        if mode is MODES["Disabled"] and resetting.any():
            observations, _ = venv.reset(options={"reset_mask": resetting})
    return sorted(episode for found in done for episode in found)


def cart_poles(kind, num_envs):
    if kind == "vector_entry_point":
        return gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode=kind, max_episode_steps=40)
    return gymnasium.make_vec(
        "CartPole-v1",
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": MODES[kind]},
        max_episode_steps=40,
    )


@pytest.mark.parametrize("kind", ["vector_entry_point", *MODES])
def test_episodes_are_those_of_a_plain_loop_in_every_autoreset_mode(kind):
    policy = SoftmaxPolicy(4, 2).at(torch.linspace(-3, 3, 8, dtype=torch.float64))
    with GymSampler(cart_poles(kind, 7), horizon=40, dtype=torch.float64) as sampler:
        found = as_lists(sampler.collect(policy, 60, seed=11))
    shares = [9, 9, 9, 9, 8, 8, 8]
    expected = plain_vector_loop(cart_poles(kind, 7), policy, shares, seed=11)
    assert found == expected
    assert {episode[3] for episode in found} == {True, False}  # both kinds of end are in it


@pytest.mark.parametrize(
    "name", ["Pendulum-v1", "MountainCarContinuous-v0", "Acrobot-v1", "FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"]
)
def test_replayed_alone_an_environment_gives_what_was_recorded(name):
    horizon = 30 if name != "FrozenLake-v1" else None
    with GymSampler(name, horizon=horizon, num_envs=3, dtype=torch.float64) as sampler:
        policy = policy_for(sampler, std=3.0)
        found = as_lists(sampler.collect(policy, 8, seed=2))
        horizon = sampler.spec.horizon
    assert len(found) == 8
    seeds = [int(word) for word in np.random.SeedSequence(2).generate_state(4)[:3]]
    by_start = defaultdict(list)
    for episode in found:
        by_start[str(episode[0][0])].append(episode)
    for index, share in enumerate([3, 3, 2]):
        env = gymnasium.make(name, max_episode_steps=horizon)
        observation, _ = env.reset(seed=seeds[index])
        for _ in range(share):
            # Several may begin alike; the one that was recorded here is the one whose replay fits.
            candidates = by_start[str(row_of(env, observation))]
            copies = [copy.deepcopy(env) for _ in candidates]
            place = [fits(copied, episode) for copied, episode in zip(copies, candidates, strict=True)].index(True)
            env = copies[place]
            candidates.pop(place)
            observation, _ = env.reset()
    assert not any(by_start.values())


def row_of(env, observation):
    space = env.observation_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return [float(index == observation) for index in range(space.n)]
    return observation.astype(np.float64).tolist()


def fits(env, episode):
    observations, actions, rewards, terminated = episode
    for step, action in enumerate(actions):
        if isinstance(env.action_space, gymnasium.spaces.Box):
            action = np.clip(np.array(action), env.action_space.low, env.action_space.high).astype(np.float32)
        after, reward, ended, cut, _ = env.step(action)
        last = step + 1 == len(actions)
        if reward != pytest.approx(rewards[step], rel=1e-12) or (ended or cut) != last:
            return False
        if bool(ended) != terminated if last else row_of(env, after) != observations[step + 1]:
            return False
    return True


# A fair sample


def test_the_first_to_finish_are_not_a_fair_sample_and_a_fixed_share_is():
    num_envs, num_episodes = 50, 100

    def first_to_finish(seed):
        venv = gymnasium.vector.SyncVectorEnv([CoinLength] * num_envs, autoreset_mode=MODES["SameStep"])
        venv.reset(seed=seed)
        lengths, found = np.zeros(num_envs), []
        while len(found) < num_episodes:
            _, _, terminated, _, _ = venv.step(np.full(num_envs, 3))
            lengths += 1
            found += lengths[terminated].tolist()
            lengths[terminated] = 0
        return np.mean(found[:num_episodes])

    with GymSampler(CoinLength, horizon=20, num_envs=num_envs) as sampler:
        policy = SoftmaxPolicy(1, 2)
        fair = [
            np.mean([len(episode[2]) for episode in as_lists(sampler.collect(policy, num_episodes, seed))])
            for seed in range(20)
        ]
    # Standard deviation of a mean of 2000 lengths of 1 or 20.
    error = 9.5 / 2000**0.5
    assert abs(np.mean(fair) - 10.5) < 4 * error
    assert np.mean([first_to_finish(1000 * seed) for seed in range(20)]) < 10.5 - 10 * error


def test_an_environment_that_has_done_its_share_is_not_stepped():
    stepped = []

    class Counted(CoinLength):
        def step(self, action):
            stepped.append(1)
            return super().step(action)

    with GymSampler(Counted, horizon=20, num_envs=4) as sampler:
        episodes = as_lists(sampler.collect(SoftmaxPolicy(1, 2), 6, seed=0))
    assert len(stepped) == sum(len(episode[2]) for episode in episodes)


def test_fewer_episodes_than_environments():
    with GymSampler("CartPole-v1", num_envs=16) as sampler:
        assert len(as_lists(sampler.collect(SoftmaxPolicy(4, 2), 3, seed=0))) == 3


# Seeds and chunks


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_the_same_seed_gives_the_same_bits_whatever_was_collected_between(name):
    with GymSampler(name, num_envs=5) as sampler:
        assert isinstance(sampler, Sampler)
        policy = policy_for(sampler)
        first = list(sampler.collect(policy, 12, seed=4))
        list(sampler.collect(policy.at(policy.theta + 1), 9, seed=5))
        again = list(sampler.collect(policy, 12, seed=4))
        other = as_lists(sampler.collect(policy, 12, seed=5))
    for one, two in zip(first, again, strict=True):
        for field in ("observations", "actions", "rewards", "mask", "terminated", "truncated"):
            assert torch.equal(getattr(one, field), getattr(two, field))
    assert not {str(episode[0][0]) for episode in as_lists(first)} & {str(episode[0][0]) for episode in other}


def test_chunks_are_bounded_and_do_not_change_the_episodes():
    policy = SoftmaxPolicy(4, 2)
    with (
        GymSampler("CartPole-v1", num_envs=8) as large,
        GymSampler("CartPole-v1", num_envs=8, chunk_bytes=20_000) as small,
    ):
        whole, parts = list(large.collect(policy, 300, seed=0)), list(small.collect(policy, 300, seed=0))
    # Observations, action (a long), reward and mask.
    assert max(chunk.mask.numel() * (4 * 4 + 8 + 4 + 1) for chunk in parts) <= 20_000
    assert len(parts) > len(whole)
    assert as_lists(whole) == as_lists(parts)


def test_memory_does_not_grow_with_the_batch():
    import tracemalloc

    policy = SoftmaxPolicy(4, 2)
    with GymSampler("CartPole-v1", num_envs=8, horizon=40, chunk_bytes=5000) as sampler:
        list(sampler.collect(policy, 8, seed=0))
        tracemalloc.start()
        steps = sum(chunk.num_steps for chunk in sampler.collect(policy, 500, seed=0))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    whole = steps * 29  # bytes of all the episodes
    assert most < whole / 4


def test_workers_give_the_episodes_of_this_process():
    policy = GaussianPolicy(3, 1, std=1.0)
    with GymSampler("Pendulum-v1", num_envs=2) as here, GymSampler("Pendulum-v1", workers=2) as there:
        assert as_lists(here.collect(policy, 5, seed=0)) == as_lists(there.collect(policy, 5, seed=0))


def test_an_error_in_a_worker_reaches_the_caller_and_ends_the_workers():
    class Breaks(CoinLength):
        def step(self, action):
            raise RuntimeError("the motor is on fire")

    sampler = GymSampler(Breaks, horizon=20, workers=2)
    # Gymnasium warns of the worker too.
    with warnings.catch_warnings(action="ignore"), pytest.raises(RuntimeError, match="the motor is on fire"):
        list(sampler.collect(SoftmaxPolicy(1, 2), 4, seed=0))
    sampler.close()
    sampler.close()


# What is recorded


def test_raw_actions_are_recorded_and_clipped_ones_are_taken():
    taken = []

    class Noted(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        action_space = gymnasium.spaces.Box(-0.5, 0.25, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(2, np.float32), {}

        def step(self, action):
            taken.append(action)
            return np.zeros(2, np.float32), 0.0, False, False, {}

    with GymSampler(Noted, horizon=200, num_envs=1) as sampler:
        (episodes,) = sampler.collect(GaussianPolicy(2, 1, std=1.0), 1, seed=0)
    assert episodes.truncated.item()
    assert episodes.actions.abs().max() > 1
    assert np.array(taken).dtype == np.float32
    np.testing.assert_array_equal(np.array(taken), np.clip(episodes.actions[0].numpy(), -0.5, 0.25).astype(np.float32))


def test_the_specification_says_what_the_space_says():
    with GymSampler("Pendulum-v1", discount=0.9) as sampler:
        spec = sampler.spec
    assert (spec.name, spec.observation_dim, spec.action_dim, spec.num_actions) == ("Pendulum-v1", 3, 1, None)
    assert (spec.horizon, spec.discount, spec.observation_bound) == (200, 0.9, 8.0)
    assert (spec.action_volume, spec.action_diameter) == (4.0, 4.0)
    with GymSampler("CartPole-v1") as sampler:
        spec = sampler.spec
    assert (spec.num_actions, spec.horizon, spec.observation_bound, spec.action_volume, spec.reward_bound) == (
        2,
        500,
        None,
        None,
        1.0,
    )
    with GymSampler("CartPole-v1", env_kwargs={"sutton_barto_reward": True}) as sampler:
        assert sampler.spec.reward_bound is None  # keywords may change it
    with GymSampler("CartPole-v1", reward_bound=2.0, observation_bound=3.0) as sampler:
        assert (sampler.spec.reward_bound, sampler.spec.observation_bound) == (2.0, 3.0)


@pytest.mark.parametrize(
    "name", ["Pendulum-v1", "MountainCarContinuous-v0", "Acrobot-v1", "MountainCar-v0", "CliffWalking-v1", "Taxi-v4"]
)
def test_no_reward_is_past_the_documented_bound(name):
    with GymSampler(name, horizon=100) as sampler:
        bound = sampler.spec.reward_bound
        for seed in range(3):
            policy = policy_for(sampler, std=5.0)
            policy = policy.at(
                torch.randn(policy.num_parameters, generator=torch.Generator().manual_seed(seed)).double()
            )
            assert max(chunk.rewards.abs().max() for chunk in sampler.collect(policy, 8, seed)) <= bound


def test_numbers_are_float32_or_as_asked_for():
    for settings, dtype in (({}, torch.float32), ({"dtype": torch.float64}, torch.float64)):
        with GymSampler("Pendulum-v1", num_envs=2, **settings) as sampler:
            (chunk, *_) = sampler.collect(GaussianPolicy(3, 1), 4, seed=0)
        assert chunk.observations.dtype == chunk.actions.dtype == chunk.rewards.dtype == dtype


def test_a_tuple_of_parts_works_with_the_wrapper_that_its_error_names():
    with pytest.raises(InputError, match=r"got Tuple; give wrappers=\[gymnasium.wrappers.FlattenObservation\]"):
        GymSampler("Blackjack-v1", horizon=20)
    with GymSampler("Blackjack-v1", horizon=20, wrappers=[gymnasium.wrappers.FlattenObservation]) as sampler:
        assert len(as_lists(sampler.collect(policy_for(sampler), 20, seed=0))) == 20


# What is refused, in one line


class Images(CoinLength):
    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Parts(CoinLength):
    observation_space = gymnasium.spaces.Dict({"near": gymnasium.spaces.Discrete(2)})


class ManyActions(CoinLength):
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])


@pytest.mark.parametrize(
    ("env", "settings", "message"),
    [
        ("CartPole-v7", {}, "got 'CartPole-v7'; did you mean CartPole-v1 or CartPole-v0\\?"),
        ("CartPole", {}, "got 'CartPole'; did you mean CartPole-v1 or CartPole-v0\\?"),
        ("Pendulm-v1", {}, "got 'Pendulm-v1'; did you mean Pendulum-v1"),
        ("nothing at all", {}, "written package.module:Name-v0"),
        (
            "no_such_package:A-v0",
            {},
            "no_such_package of env='no_such_package:A-v0' must be a module that can be imported",
        ),
        (Images, {"horizon": 5}, r"got images of shape \(8, 8, 3\); give wrappers"),
        (Parts, {"horizon": 5}, "observations of Parts must be a Box of numbers or Discrete, got Dict; give wrappers"),
        (ManyActions, {"horizon": 5}, "actions of ManyActions must be a Box of real numbers or Discrete"),
        (CoinLength, {}, "horizon must be given for CoinLength"),
        ("CliffWalking-v1", {}, "horizon must be given for CliffWalking-v1"),
        ("CartPole-v1", {"num_envs": 0}, "num_envs must be an integer of at least 1"),
        ("CartPole-v1", {"env_kwargs": {"wings": 2}}, "CartPole-v1, which cannot: .*wings"),
        (CoinLength(), {"horizon": 5}, "give a function of no arguments"),
    ],
)
def test_what_does_not_work_is_refused_in_one_line(env, settings, message):
    with pytest.raises(InputError, match=message) as refused:
        GymSampler(env, **settings)
    assert "\n" not in str(refused.value)


def test_the_kind_of_the_policy_must_fit():
    with GymSampler("CartPole-v1") as sampler, pytest.raises(InputError, match="use a softmax policy"):
        sampler.collect(GaussianPolicy(4, 1), 1, seed=0)
    with GymSampler("Pendulum-v1") as sampler, pytest.raises(InputError, match="use a Gaussian policy"):
        sampler.collect(SoftmaxPolicy(3, 2), 1, seed=0)
    with pytest.raises(InputError, match="must be open"):
        sampler.collect(GaussianPolicy(3, 1), 1, seed=0)


def test_two_batches_at_once_are_refused():
    with GymSampler("CartPole-v1", num_envs=2, chunk_bytes=1) as sampler:
        one = sampler.collect(SoftmaxPolicy(4, 2), 400, seed=0)
        next(one)
        next(sampler.collect(SoftmaxPolicy(4, 2), 4, seed=1))
        with pytest.raises(InputError, match="one batch after the other"):
            list(one)


def test_an_episode_past_the_horizon_is_an_error_and_not_a_short_episode():
    venv = gymnasium.vector.SyncVectorEnv([CoinLength] * 4)
    sampler = GymSampler(venv, horizon=10)
    with pytest.raises(InputError, match="must end within horizon=10 steps"):
        list(sampler.collect(SoftmaxPolicy(1, 2), 20, seed=0))
    sampler.close()


def test_a_reward_that_is_not_a_number_is_an_error():
    class Bad(CoinLength):
        def step(self, action):
            after, _, *rest = super().step(action)
            return after, float("nan"), *rest

    with GymSampler(Bad, horizon=20) as sampler, pytest.raises(InputError, match="must be finite numbers"):
        list(sampler.collect(SoftmaxPolicy(1, 2), 4, seed=0))


def test_without_gymnasium_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'batchwright\[rl\]'"):
        GymSampler("CartPole-v1")


def test_the_room_is_imported_without_gymnasium():
    code = "import sys; sys.modules['gymnasium'] = None; from batchwright.rl.gym_sampler import GymSampler; import batchwright.rl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
