"""The continuous cart-pole from theta = 0: trajectories to a mean return of 150 of 200, and every update that lowers the return.

    python -m benchmarks.rl_cart_pole [--methods NAME ...] [--seeds 5] [--first-seed 0]

A linear Gaussian policy of four parameters with standard deviation 1 newton, discount 0.99, horizon 200. Methods:

- ``tried``: the practice version with the curvature found by trial; ``tried-scalar`` moves all coordinates at once;
- ``observed``: the practice version whose curvature is that of the constants seen in the data;
- ``spg``: safe policy gradient (2022) with the same constants;
- ``reinforce:LR``: plain REINFORCE with the optimal baseline, 200 trajectories an update and a fixed step.

Each policy that was in force is run on 2000 episodes that the method does not see, the same starts and noise for all (500 for
REINFORCE, whose losses are large). A drop is a mean return below that of the policy before by more than 1.96 standard errors of the
difference, counted for the discounted return, which the methods climb, and for the plain one. A step that ``tried`` takes back was
never in force; its trajectories are counted. One JSON line a run. stable-baselines3 has a script of its own, rl_cart_pole_peers.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from batchwright.rl import GaussianPolicy, SafePolicyGradient
from batchwright.rl.cart_pole import CartPoleSampler
from batchwright.rl.estimators import estimate_gradient

BUDGET, GOAL, SEED = 150_000, 150.0, 999
COMMON = {
    "delta": 0.1,
    "bound": "bernstein",
    "value_range": "empirical",
    "constants": "observed",
    "baseline": "batch",
    "max_batch_size": 10_000,
}
METHODS = {
    "tried": {"curvature": "tried"},
    "tried-scalar": {"curvature": "tried", "variant": "scalar"},
    "observed": {},
    "spg": {"method": "spg"},
}


def policy_at(theta: Tensor) -> GaussianPolicy:
    return GaussianPolicy(4, 1, std=1.0).at(theta)


def safe(method: str, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Trajectories used when each policy came in force, and its parameters."""
    trainer = SafePolicyGradient(
        CartPoleSampler(), policy_at(torch.zeros(4)), budget=BUDGET, seed=seed, **COMMON, **METHODS[method]
    )
    updates = trainer.train().updates
    for update, judging in itertools.pairwise(updates):
        if update.step_size > 0 and not judging.taken_back:
            # A step on trial is in force once the batch after it was drawn.
            used = judging.num_trajectories if method.startswith("tried") else update.num_trajectories
            yield used, torch.tensor(update.theta, dtype=torch.float64)


def reinforce(lr: float, seed: int, batch_size: int = 200) -> Iterator[tuple[int, Tensor]]:
    theta, sampler = torch.zeros(4, dtype=torch.float64), CartPoleSampler()
    for update in range(50_000 // batch_size):
        policy = policy_at(theta)
        found = estimate_gradient(
            policy,
            lambda policy=policy, update=update: sampler.collect(policy, batch_size, 100_003 * seed + update),
            discount=0.99,
            horizon=200,
            estimator="reinforce",
            spread=False,
        )
        theta = theta + lr * found.gradient
        yield batch_size * (update + 1), theta


def look(theta: Tensor, num: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean and standard error of the return without discount and with it."""
    chunks = list(CartPoleSampler().collect(policy_at(theta), num, SEED))
    both = [torch.cat([chunk.returns(discount) for chunk in chunks]) for discount in (1.0, 0.99)]
    plain, discounted = ((float(returns.mean()), float(returns.std() / num**0.5)) for returns in both)
    return plain, discounted


def drops_in(looks: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [
        (round(before[0], 1), round(after[0], 1))
        for before, after in itertools.pairwise(looks)
        if after[0] - before[0] < -1.96 * math.hypot(before[1], after[1])
    ]


def run(method: str, seed: int) -> dict[str, Any]:
    began = time.process_time()
    plain = method.startswith("reinforce:")
    policies = [(0, torch.zeros(4, dtype=torch.float64))]
    policies += reinforce(float(method.split(":")[1]), seed) if plain else safe(method, seed)
    cpu_s = time.process_time() - began
    both = [look(theta, 500 if plain else 2000) for _, theta in policies]
    looks = [one for one, _ in both]
    drops = drops_in(looks)
    return {
        "method": method,
        "seed": seed,
        "updates": len(looks) - 1,
        "trajectories": policies[-1][0],
        "drops_discounted": len(drops_in([other for _, other in both])),
        "drops": len(drops),
        "largest_drop": max(drops, key=lambda drop: drop[0] - drop[1], default=None),
        "final": round(looks[-1][0], 1),
        "best": round(max(mean for mean, _ in looks), 1),
        "trajectories_to_150": next(
            (used for (used, _), (mean, _) in zip(policies, looks, strict=True) if mean >= GOAL), None
        ),
        "theta": [round(value, 3) for value in policies[-1][1].tolist()],
        "cpu_s": round(cpu_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=[*METHODS, "reinforce:0.1", "reinforce:1"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for method in given.methods:
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            print(json.dumps(run(method, seed)), flush=True)


if __name__ == "__main__":
    main()
