"""A policy-gradient loop of your own, in the single-file manner of CleanRL: how many episodes does its next update need?

Try it with ``python examples/rl_batch_advice.py``; it takes seconds. The loop keeps its policy, its loss and its optimizer. Two lines
are ours: the gradients of the single episodes, which it would average anyway, go to `bw.rl.batch_size_advice`, and the answer is the
number of episodes of the next update. Nothing is known of rewards or policies there, so this is advice and no guarantee.
"""

import gymnasium
import torch
from torch import Tensor, nn

import batchwright as bw

NUM_UPDATES, DISCOUNT, FEWEST, MOST = 6, 0.99, 16, 64


def run_episode(env: gymnasium.Env, policy: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Observations, actions and discounted rewards to go of one whole episode."""
    observation, _ = env.reset()
    observations, actions, rewards, ended = [], [], [], False
    while not ended:
        observations.append(torch.from_numpy(observation))
        with torch.no_grad():
            actions.append(torch.multinomial(policy(observations[-1]).softmax(0), 1))
        observation, reward, terminated, truncated, _ = env.step(actions[-1].item())
        rewards.append(float(reward))
        ended = terminated or truncated
    to_go, total = [], 0.0
    for reward in reversed(rewards):
        total = reward + DISCOUNT * total
        to_go.append(total)
    return torch.stack(observations), torch.stack(actions), torch.tensor(to_go[::-1])


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
        mean_return = sum(len(to_go) for _, _, to_go in episodes) / batch_size
        baseline = torch.cat([to_go for _, _, to_go in episodes]).mean()
        losses = []
        for observations, actions, to_go in episodes:
            log_prob = policy(observations).log_softmax(1).gather(1, actions)[:, 0]
            losses.append(-(log_prob * (to_go - baseline)).sum())
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
