"""A safe policy gradient on an environment of your own: how many episodes each update takes, and what it promises of its step.

Run: python examples/safe_policy_gradient.py
"""

import gymnasium
import numpy as np

import batchwright as bw


class Thermostat(gymnasium.Env):
    """Hold a room at its temperature: the observation is how far off it is, the action heats or cools."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))
        self.action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """A room that is up to a degree off."""
        super().reset(seed=seed)
        self.off, self.steps = self.np_random.uniform(-1, 1), 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The price is the distance and what heating takes; a door lets the weather in."""
        reward = -float(self.off**2 + 0.1 * float(action[0]) ** 2)
        self.off = float(np.clip(self.off + 0.5 * float(action[0]) + 0.1 * self.np_random.normal(), -2, 2))
        self.steps += 1
        return self._seen(), reward, False, self.steps == 10, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.off], dtype=np.float32)


def main() -> None:
    """Updates that lower the expected return with a probability of at most a fifth each."""
    with bw.rl.GymSampler(Thermostat, discount=0.9, horizon=10, num_envs=50) as sampler:
        policy = bw.rl.GaussianPolicy(1, 1, std=0.5)
        # Bounds that are known (reward_bound= and observation_bound= of the sampler, and the defaults here) give a guarantee, and
        # steps that are far shorter.
        trainer = bw.rl.SafePolicyGradient(
            sampler,
            policy,
            delta=0.2,
            bound="bernstein",
            constants="observed",
            value_range="empirical",
            curvature="tried",
            budget=10_000,
        )
        print("\n".join(trainer.guarantee.lines))
        run = trainer.train()
    for update in run.updates:
        print(
            f"{update.batch_size} episodes: return {update.mean_return:.3f}, step {update.step_size:.3g}, "
            f"promised {update.guaranteed_improvement:.4f}"
        )


if __name__ == "__main__":
    main()
