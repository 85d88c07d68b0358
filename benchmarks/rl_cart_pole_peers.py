"""stable-baselines3's A2C and PPO at their defaults on the continuous cart-pole, every drop of their return counted.

    python -m benchmarks.rl_cart_pole_peers [--algorithms PPO A2C] [--seeds 5] [--steps 40000] [--newton]

After each look the policy as it acts in training (stochastic) runs 300 whole episodes of its own, on the batched sampler: these are
not counted as the learner's. PPO is looked at after every update (2048 steps); A2C updates every 5 steps and is looked at every 100
updates, so that what it loses and wins back in between is not seen. A drop is a look whose mean return is below that of the look before
by more than 1.96 standard errors of the difference. Both learners get forces scaled to [-1, 1], as stable-baselines3's own guide asks;
``--newton`` leaves them in newton. One JSON line a run.
"""

import argparse
import itertools
import json
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from batchwright.rl.cart_pole import CartPoleSampler

ENV = "batchwright.rl.cart_pole_env:batchwright/CartPoleForce-v0"
EPISODES = 300
# The same starts and noise at every look, so that two looks differ by their policies.
SEED = 999


class Acting:
    """The present policy of a learner as a policy of `batchwright.rl`, which draws its forces from it."""

    discrete = False
    theta = torch.zeros(1)

    def __init__(self, model: Any, scale: float) -> None:
        self.policy, self.scale = model.policy, scale

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        found = self.policy.get_distribution(observations).distribution
        noise = torch.randn(found.mean.shape, generator=generator)
        return self.scale * (found.mean + found.stddev * noise)


def mean_return(model: Any, scale: float) -> tuple[float, float]:
    """Mean undiscounted return and its standard error."""
    chunks = CartPoleSampler().collect(Acting(model, scale), EPISODES, SEED)
    returns = torch.cat([chunk.rewards.sum(1) for chunk in chunks])
    return float(returns.mean()), float(returns.std() / EPISODES**0.5)


def run(algorithm: str, seed: int, num_steps: int, newton: bool) -> dict[str, Any]:
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback

    env = gymnasium.make(ENV)
    if not newton:
        env = gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)
    scale = 1.0 if newton else 10.0
    looks: list[tuple[int, int, float, float]] = []
    every = 1 if algorithm == "PPO" else 100

    class Look(BaseCallback):
        """Counts episodes, and looks at the policy before a rollout begins, that is after an update."""

        updates = episodes = 0

        def _on_step(self) -> bool:
            self.episodes += sum(self.locals["dones"])
            return True

        def _on_rollout_start(self) -> None:
            if self.updates % every == 0:
                looks.append((self.num_timesteps, int(self.episodes), *mean_return(self.model, scale)))
            self.updates += 1

    model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=seed, device="cpu")
    began = time.process_time()
    model.learn(num_steps, callback=Look())
    drops = [
        (round(before[2], 1), round(after[2], 1))
        for before, after in itertools.pairwise(looks)
        if after[2] - before[2] < -1.96 * (before[3] ** 2 + after[3] ** 2) ** 0.5
    ]
    reached = next((look for look in looks if look[2] >= 150), None)
    largest = max(drops, key=lambda drop: drop[0] - drop[1], default=None)
    return {
        "algorithm": algorithm,
        "seed": seed,
        "force": "newton" if newton else "scaled",
        "steps": looks[-1][0],
        "episodes": looks[-1][1],
        "looks": len(looks),
        "drops": len(drops),
        "largest_drop": largest,
        "final": round(looks[-1][2], 1),
        "best": round(max(look[2] for look in looks), 1),
        "episodes_to_150": reached and reached[1],
        "steps_to_150": reached and reached[0],
        "lowest_after_150": reached and round(min(look[2] for look in looks if look[0] >= reached[0]), 1),
        "cpu_s": round(time.process_time() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithms", nargs="+", default=["PPO", "A2C"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--newton", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for seed in range(given.seeds):
        for algorithm in given.algorithms:
            print(json.dumps(run(algorithm, seed, given.steps, given.newton)), flush=True)


if __name__ == "__main__":
    main()
