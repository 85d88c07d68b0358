"""Rollouts through `GymSampler` against the raw vector environment's own steps, ratios in one run.

    python -m benchmarks.rl_rollouts [--rounds 9]

Both take actions that were drawn beforehand, so that the environments are all there is to do. *Raw* steps the same kind of vector
environment and looks at nothing. *Stepped* counts every step that the sampler asks of its environments, as raw does; *data* those that
come back in whole episodes: without the steps at which an environment resets, and without those of environments that have done their
share. Process CPU time on one thread, so workers are left out. Median ratio over rounds of raw and sampler in turn, with the 95 %
interval of the median. The last table is LQG and the torch cart-pole, in steps a second of episodes collected.
"""

import argparse
import statistics
import time

import gymnasium
import numpy as np
import torch
from torch import Tensor

from batchwright.rl import CartPoleSampler, GaussianPolicy, GymSampler
from batchwright.rl.lqg import LQG

CASES = [
    ("CartPole-v1", 64, True),
    ("CartPole-v1", 256, True),
    ("CartPole-v1", 1024, True),
    ("CartPole-v1", 64, False),
    ("Pendulum-v1", 64, False),
    ("MountainCarContinuous-v0", 64, False),
    ("Acrobot-v1", 64, False),
]


class Drawn:
    """A policy whose actions are there already."""

    def __init__(self, sampler: GymSampler) -> None:
        generator = torch.Generator().manual_seed(0)
        spec, num = sampler.spec, sampler.num_envs
        self.discrete = spec.action_dim is None
        self.theta = torch.zeros(1)
        if self.discrete:
            self.actions = list(torch.randint(spec.num_actions, (64, num), generator=generator))
        else:
            self.actions = list(torch.randn(64, num, spec.action_dim, generator=generator))
        self.calls = 0

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        self.calls += 1
        return self.actions[self.calls & 63]


def raw_environment(name: str, num_envs: int, vector: bool) -> gymnasium.vector.VectorEnv:
    if vector:
        return gymnasium.make_vec(name, num_envs, vectorization_mode="vector_entry_point")
    same = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
    return gymnasium.make_vec(name, num_envs, vectorization_mode="sync", vector_kwargs=same)


def measure(name: str, num_envs: int, vector: bool, rounds: int) -> tuple[list[float], list[float], float]:
    """Ratios of stepped and of data steps a second to the raw ones of the same round, and the median raw speed."""
    wrappers = () if vector else [lambda env: env]
    sampler, raw = GymSampler(name, num_envs=num_envs, wrappers=wrappers), raw_environment(name, num_envs, vector)
    policy = Drawn(sampler)
    box = raw.single_action_space
    prepared = [action.numpy() for action in policy.actions]
    if not policy.discrete:
        prepared = [np.clip(action, box.low, box.high) for action in prepared]
    raw.reset(seed=0)
    num_episodes = max(num_envs * (20 if policy.discrete and name.startswith("CartPole") else 2), 32)
    list(sampler.collect(policy, num_episodes, 0))
    stepped, data, speeds = [], [], []
    for seed in range(rounds):
        began = time.process_time()
        policy.calls = 0
        found = sum(chunk.num_steps for chunk in sampler.collect(policy, num_episodes, seed))
        spent = time.process_time() - began
        calls = policy.calls
        began = time.process_time()
        for step in range(calls):
            raw.step(prepared[step & 63])
        raw_speed = calls * num_envs / (time.process_time() - began)
        # A fixed share stands still once it is done, and a step of it costs nothing: in the sync form only real steps count.
        stepped.append((calls * num_envs if vector else found) / spent / raw_speed)
        data.append(found / spent / raw_speed)
        speeds.append(raw_speed)
    sampler.close()
    raw.close()
    return stepped, data, statistics.median(speeds)


def interval(values: list[float]) -> str:
    ordered, count = sorted(values), len(values)
    reach = max(int(0.5 * count - 0.98 * count**0.5), 0)
    return f"{statistics.median(values):.2f} ({ordered[reach]:.2f}–{ordered[count - 1 - reach]:.2f})"


def torch_speed(kind: str, rounds: int) -> str:
    sampler = LQG() if kind == "lqg" else CartPoleSampler()
    policy = GaussianPolicy(sampler.spec.observation_dim, 1, std=1.0)
    speeds = []
    for seed in range(rounds):
        began = time.process_time()
        steps = sum(chunk.num_steps for chunk in sampler.collect(policy, 10_000, seed))
        speeds.append(steps / (time.process_time() - began) / 1e6)
    return interval(speeds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(
        "| environment | form | n | raw, 10⁶ steps/s | stepped / raw | data / raw |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name, num_envs, vector in CASES:
        stepped, data, raw = measure(name, num_envs, vector, rounds)
        form = "own vector form" if vector else "sync"
        print(
            f"| {name} | {form} | {num_envs} | {raw / 1e6:.3f} | {interval(stepped)} | {interval(data)} |", flush=True
        )
    print("\n| in torch | 10⁶ steps/s |\n| --- | --- |")
    for kind in ("lqg", "cart-pole"):
        print(f"| {kind} | {torch_speed(kind, rounds)} |", flush=True)


if __name__ == "__main__":
    main()
