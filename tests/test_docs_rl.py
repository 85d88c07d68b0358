"""The code of docs/rl.md runs, and its numbers are those of the code."""

import math

import torch
from tests.page_blocks import DOCS, run_blocks
from torch import nn

from batchwright.rl import GaussianPolicy
from batchwright.rl.smoothness import curvature, published_curvature


def test_the_blocks_of_the_page_run_in_order(capsys):
    names, number = run_blocks("rl.md")
    assert number == 4
    assert names["run"].num_moves > 0
    assert names["trainer"].guarantee.holds
    assert names["advice"].batch_size > 1
    assert "with probability at most 0.2" in capsys.readouterr().out


def test_the_policy_of_the_page_has_the_scores_that_autograd_gives_one_by_one():
    names, _ = run_blocks("rl.md")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    policy = names["MyPolicy"](net)
    states, actions = torch.randn(5, 7, 3), torch.randint(2, (5, 7))
    scores = policy.score(states, actions)
    for i in range(5):
        for j in range(7):
            net.zero_grad()
            net(states[i, j]).log_softmax(-1)[actions[i, j]].backward()
            exact = torch.cat([each.grad.flatten() for each in net.parameters()])
            assert torch.allclose(scores[i, j], exact.double(), atol=1e-6)
    moved = policy.at(policy.theta + 1.0)
    assert not torch.allclose(moved.log_prob(states, actions), policy.log_prob(states, actions))
    assert policy.sample(states, torch.Generator().manual_seed(0)).shape == (5, 7)


def test_the_constants_of_the_page_are_those_of_the_code():
    text = " ".join((DOCS / "rl.md").read_text(encoding="utf-8").split())
    smooth = GaussianPolicy(1, 1).coordinate_smoothing(2.0)
    found = [
        curvature(smooth, reward_bound=4.0, discount=0.9, horizon=20, form=form)
        for form in ("finite-horizon", "infinite-horizon", "smoothing")
    ]
    found.append(published_curvature(reward_bound=4.0, feature_bound=2.0, std=1.0, action_volume=4.0, discount=0.9))
    words = [f"{value:,.0f}" for value in found]
    assert f"`c` is {words[0]}, {words[1]}, {words[2]} and {words[3]}" in text
    assert f"{found[3] / found[0]:.1f} times smaller" in text
    assert math.isfinite(found[0])
