"""stable-baselines3's A2C with a rollout length that follows the noise of its own gradient.

Try it with ``python examples/rl_stable_baselines3.py`` where stable-baselines3 is installed. A callback takes the rollout that A2C has
just collected, finds the gradient of its policy loss on each short piece of it, asks `bw.rl.batch_size_advice` how many pieces an
update needs, and sets ``n_steps``. The learner stays as it is.
"""

import itertools

import torch
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback

import batchwright as bw

NUM_ENVS, PIECE, FEWEST, MOST = 8, 5, 5, 80


class FollowNoise(BaseCallback):
    """Sets ``n_steps`` before each rollout from the gradients of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model = self.model
        parameters = [*model.policy.mlp_extractor.policy_net.parameters(), *model.policy.action_net.parameters()]
        rollout = model.rollout_buffer
        observations, actions = torch.as_tensor(rollout.observations), torch.as_tensor(rollout.actions).squeeze(-1)
        advantages = torch.as_tensor(rollout.advantages)
        rows = []
        for start in range(0, model.n_steps, PIECE):
            for env in range(NUM_ENVS):
                piece = (slice(start, start + PIECE), env)
                _, log_prob, _ = model.policy.evaluate_actions(observations[piece], actions[piece])
                gradient = torch.autograd.grad(-(advantages[piece] * log_prob).mean(), parameters)
                rows.append(torch.cat([part.flatten() for part in gradient]))

        advice = bw.rl.batch_size_advice(torch.stack(rows), max_batch_size=MOST // PIECE * NUM_ENVS)

        pieces_an_env = -(-advice.batch_size // NUM_ENVS)
        self.sizes.append(model.n_steps)
        model.n_steps = min(max(PIECE * pieces_an_env, FEWEST), MOST)

    def _on_rollout_start(self) -> None:
        # The buffer cannot change with n_steps at the end of a rollout: the update that follows still reads it.
        rollout = self.model.rollout_buffer
        if rollout.buffer_size != self.model.n_steps:
            rollout.buffer_size = self.model.n_steps
            rollout.reset()


def main() -> list[int]:
    """Train A2C on CartPole-v1 for 4,000 steps; the rollout lengths."""
    from stable_baselines3.common.env_util import make_vec_env

    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", NUM_ENVS, seed=0), seed=0, device="cpu")
    follow = FollowNoise()
    model.learn(4_000, callback=follow)
    changes = sum(before != after for before, after in itertools.pairwise(follow.sizes))
    print(
        f"{len(follow.sizes)} updates, n_steps from {min(follow.sizes)} to {max(follow.sizes)}, changed {changes} times; "
        f"at 5 throughout there are {4_000 // (5 * NUM_ENVS)}"
    )
    return follow.sizes


if __name__ == "__main__":
    main()
