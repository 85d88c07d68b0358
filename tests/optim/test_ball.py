"""Norms over the radii: the ball of a Scion step."""

import pytest
import torch
from torch import nn

from batchwright.optim import Ball, Euclidean, Scion, Sign, Spectral, ball_norms


def test_norm_and_dual_norm_scale_against_each_other():
    value = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for inner in (Euclidean(), Sign(scaled=True), Spectral(scaled=True)):
        ball = Ball(inner=inner, radius=7.0)
        assert float(ball.norm(value)) == pytest.approx(float(inner.norm(value)) / 7)
        assert float(ball.dual_norm(value)) == pytest.approx(float(inner.dual_norm(value)) * 7)
        # The oracle is at the edge of the ball, and gains the dual norm.
        point = ball(value)
        assert float(ball.norm(point)) == pytest.approx(1.0, abs=0.06)
        assert float(-(value * point).sum()) == pytest.approx(float(ball.dual_norm(value)), rel=0.06)


def test_a_step_is_at_most_twice_the_step_size_in_the_norm_of_the_ball():
    """papers-2026, 3.4: ``||x_{k+1} - x_k|| <= 2 beta eta``, for layers with radii of their own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 4))
    groups = [
        {"params": [model[0].weight], "norm": "spectral", "radius": 3.0},
        {"params": [model[1].weight], "norm": "sign", "radius": 40.0},
        {"params": [model[1].bias], "norm": "euclidean", "radius": 0.5},
    ]
    optimizer = Scion(groups, lr=0.03)
    optimizer.init(torch.Generator().manual_seed(1))
    norms = ball_norms(model, optimizer)
    assert set(norms) == {"0.weight", "1.weight", "1.bias"}
    largest = 0.0
    for _ in range(20):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
        moved = [
            float(norms[name].norm(parameter.detach() - before[name])) for name, parameter in model.named_parameters()
        ]
        assert max(moved) <= 2 * 0.03 * (1 + 1e-5)
        largest = max(largest, *moved)
    assert largest > 0.02  # the bound is not met by standing still
