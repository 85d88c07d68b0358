"""Throughput of the LQG with its policy gradients, against the same in plain batched numpy; and the memory of ten million trajectories.

    OMP_NUM_THREADS=1 python -m benchmarks.safe_pg [ROUNDS]

Steps a second of processor time on one core, median over rounds taken in turn. A step is one step of one trajectory; with gradients,
the sums of scores, baselines and spread of G(PO)MDP are in the time.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from batchwright.rl import LQG, GaussianPolicy, estimate_gradient

HORIZON = 20
SIZES = (1000, 10_000, 100_000)


def numpy_rollout(number: int, seed: int, *, gradients: bool) -> None:
    """The LQG in float32 numpy, and G(PO)MDP with the best baselines over whole arrays."""
    rng = np.random.default_rng(seed)
    theta, sigma = np.float32(-0.1), np.float32(1.0)
    s = rng.uniform(-2, 2, number).astype(np.float32)
    noise = rng.standard_normal((HORIZON, number), dtype=np.float32)
    rewards, z = np.empty_like(noise), np.empty_like(noise)
    for t in range(HORIZON):
        raw = theta * s + sigma * noise[t]
        a = np.clip(raw, -2, 2)
        rewards[t] = -0.5 * (s * s + a * a)
        z[t] = noise[t] * s / sigma
        s = np.clip(s + a, -2, 2)
    if gradients:
        z = z.cumsum(axis=0)
        q = rewards * (0.9 ** np.arange(HORIZON, dtype=np.float32))[:, None]
        square = z * z
        baseline = (square * q).mean(1) / square.mean(1)
        each = (z * (q - baseline[:, None])).sum(0)
        each.mean(), each.var(), np.ptp(each)


def torch_rollout(number: int, seed: int, *, gradients: bool, dim: int = 1) -> None:
    env, policy = LQG(dim), GaussianPolicy(dim, dim)
    if gradients:
        estimate_gradient(policy, lambda: env.collect(policy, number, seed), discount=0.9, horizon=HORIZON)
    else:
        for _ in env.collect(policy, number, seed):
            pass


def rate(call: Callable[[int], None], steps: int, repeats: int) -> float:
    began = time.process_time()
    for seed in range(repeats):
        call(seed)
    return repeats * steps / (time.process_time() - began) / 1e6


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    print("| trajectories | with gradients | Batchwright, 1e6 steps/s | numpy, 1e6 steps/s | ratio |")
    print("|---|---|---|---|---|")
    for number in SIZES:
        repeats = max(1, 100_000 // number)
        for gradients in (False, True):
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(
                    rate(lambda s: torch_rollout(number, s, gradients=gradients), number * HORIZON, repeats)  # noqa: B023
                )
                theirs.append(
                    rate(lambda s: numpy_rollout(number, s, gradients=gradients), number * HORIZON, repeats)  # noqa: B023
                )
            a, b = statistics.median(ours), statistics.median(theirs)
            ratio = statistics.median(x / y for x, y in zip(ours, theirs, strict=True))
            print(f"| {number:,} | {'yes' if gradients else 'no'} | {a:.1f} | {b:.1f} | {ratio:.2f} |", flush=True)
    for dim in (2, 5):
        found = [
            rate(lambda s: torch_rollout(10_000, s, gradients=True, dim=dim), 10_000 * HORIZON, 3)  # noqa: B023
            for _ in range(rounds)
        ]
        print(
            f"\ndimension {dim}, {dim**2} parameters, 10,000 trajectories with gradients: {statistics.median(found):.2f}e6 steps/s"
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch_rollout(10_000_000, 0, gradients=True)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"\nten million trajectories: peak {after / 2**20:.2f} GiB of the process, {(after - before) / 2**10:.0f} MiB more than before"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
