"""A policy-gradient loop of your own, in the single-file manner of CleanRL: how many episodes does its next update need?

Try it with ``python examples/rl_batch_advice.py``; it takes seconds. The loop keeps its policy, its loss and its optimizer. Two lines
are ours: the gradients of the single episodes, which it would average anyway, go to `bw.rl.batch_size_advice`, and the answer is the
number of episodes of the next update. Nothing is known of rewards or policies there, so this is advice and no guarantee.
"""

import gymnasium
import torch
from torch import Tensor, nn

import batchwright as bw

NUM_UPDATES, DISCOUNT, FEWEST, MOST = 8, 0.99, 16, 64


def run_episode(env: gymnasium.Env, policy: nn.Module) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the actions of one whole episode, and the discounted rewards to go."""
    observation, _ = env.reset()
    log_probs, rewards, ended = [], [], False
    while not ended:
        choice = torch.distributions.Categorical(logits=policy(torch.from_numpy(observation)))
        action = choice.sample()
        observation, reward, terminated, truncated, _ = env.step(action.item())
        log_probs.append(choice.log_prob(action))
        rewards.append(float(reward))
        ended = terminated or truncated
    to_go, total = [], 0.0
    for reward in reversed(rewards):
        total = reward + DISCOUNT * total
        to_go.append(total)
    return torch.stack(log_probs), torch.tensor(to_go[::-1])


def main() -> tuple[int, float, list[int]]:
    """Train on CartPole-v1; episodes used, last mean return, and the batch sizes."""
    torch.manual_seed(0)
    env = gymnasium.make("CartPole-v1", max_episode_steps=100)
    env.reset(seed=0)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    parameters = list(policy.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    batch_size, sizes, mean_return = FEWEST, [], 0.0
    for update in range(NUM_UPDATES):
        episodes = [run_episode(env, policy) for _ in range(batch_size)]
        mean_return = sum(len(log_probs) for log_probs, _ in episodes) / batch_size
        baseline = torch.cat([to_go for _, to_go in episodes]).mean()
        losses = [-(log_probs * (to_go - baseline)).sum() for log_probs, to_go in episodes]
        rows = torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]) for loss in losses])

        advice = bw.rl.batch_size_advice(rows, min_batch_size=FEWEST, max_batch_size=MOST)

        for parameter, gradient in zip(parameters, rows.mean(0).split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)
        optimizer.step()
        print(f"update {update}: {batch_size} episodes, mean return {mean_return:.0f}; next {advice.reason}")
        sizes.append(batch_size)
        batch_size = advice.batch_size
    env.close()
    print(
        f"{sum(sizes)} episodes in batches of {min(sizes)} to {max(sizes)}, where {NUM_UPDATES} batches of {MOST} take "
        f"{NUM_UPDATES * MOST}; mean return {mean_return:.0f}"
    )
    return sum(sizes), mean_return, sizes


if __name__ == "__main__":
    main()
