"""Scion against a slow plain version, inside its ball, and its state."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from batchwright.core.errors import InputError
from batchwright.optim import NORMS, PolarOptions, Scion, Spectral, param_groups
from batchwright.optim.polar import svd_polar

PLAIN = {
    "euclidean": lambda m: -m / m.norm(),
    "sign": lambda m: -m.sign(),
    "spectral": lambda m: -svd_polar(m),
    "row": lambda m: -m / m.norm(dim=1, keepdim=True),
    "column": lambda m: -m / m.norm(dim=0, keepdim=True),
}


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 20), nn.Tanh(), nn.Linear(20, 3))


def make_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 2, 6, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        inputs, labels = make_batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_the_steps_are_those_of_the_slow_plain_version(name, constrained):
    parameter = nn.Parameter(torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    optimizer = Scion(
        [parameter], lr=0.05, momentum=0.8, norm=name, radius=3.0, constrained=constrained, scaled=False, route="exact"
    )
    x, m = parameter.detach().clone(), None
    for step in range(6):
        gradient = torch.randn(5, 7, generator=torch.Generator().manual_seed(step + 1), dtype=torch.float64)
        parameter.grad = gradient.clone()
        optimizer.step()
        m = gradient if m is None else m  # m_0 is the first gradient
        m = 0.8 * m + 0.2 * gradient
        x = (1 - 0.05 if constrained else 1.0) * x + 0.05 * 3.0 * PLAIN[name](m)
        assert torch.equal(parameter.grad, gradient)
    assert torch.allclose(parameter, x, atol=1e-5)


@pytest.mark.parametrize("route", ["auto", "exact", "polar-express", "newton-schulz"])
def test_what_starts_inside_the_ball_stays_there(route):
    model = make_model()
    optimizer = Scion(param_groups(model, "scion", radii={"default": 4.0, "head": 9.0}), lr=0.3, route=route)
    optimizer.init(torch.Generator().manual_seed(0))
    assert max(optimizer.norms()) <= 0.5
    for step in range(30):
        train(model, optimizer, 1, first=step)
        assert max(optimizer.norms()) <= 1 + 1e-5
    assert max(optimizer.norms()) > 0.8


def test_the_whole_step_leads_to_the_edge():
    parameter = nn.Parameter(torch.zeros(4, 6))
    parameter.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    Scion([parameter], lr=1.0, radius=2.0, scaled=False, route="exact").step()
    assert torch.linalg.svdvals(parameter).tolist() == pytest.approx([2.0] * 4, rel=1e-4)


def test_the_conditional_gradient_finds_the_minimum_over_the_ball():
    # A linear loss over the spectral ball is least at radius times the oracle's point, which lr = c/k approaches.
    target = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameter = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    optimizer = Scion([parameter], lr=1.0, momentum=0.0, radius=0.5, scaled=False, route="exact")
    # f = ||x - target||^2 / 2 over the ball of radius 0.5: the singular values of the target, cut at 0.5.
    left, values, right = torch.linalg.svd(target)
    wanted = (left * values.clamp(max=0.5)) @ right
    for step in range(3000):
        optimizer.param_groups[0]["lr"] = 2 / (step + 2)
        parameter.grad = parameter.detach() - target
        optimizer.step()
    assert (parameter - wanted).norm() < 0.02
    assert values.min() < 0.5 < values.max()


@pytest.mark.parametrize("constrained", [True, False])
def test_it_descends_and_resumes_exactly(constrained):
    def fresh():
        model = make_model()
        groups = param_groups(model, "scion", radii={"default": 5.0})
        return model, Scion(groups, lr=0.02, constrained=constrained)

    whole, optimizer = fresh()
    optimizer.init(torch.Generator().manual_seed(0))
    inputs, labels = make_batch(0)
    first = F.cross_entropy(whole(inputs), labels)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(whole(inputs), labels).backward()
        optimizer.step()
    assert F.cross_entropy(whole(inputs), labels) < 0.5 * first

    whole, optimizer = fresh()
    train(whole, optimizer, 9)
    model, optimizer = fresh()
    train(model, optimizer, 4)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, optimizer = fresh()
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(again, optimizer, 5, first=4)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_norm_may_be_an_object_and_a_checkpoint_holds_none():
    lmo = Spectral(scaled=False, polar=PolarOptions(route="exact", smallest=1e-4))
    optimizer = Scion([{"params": [nn.Parameter(torch.ones(3, 3))], "norm": lmo, "radius": 2.0}])
    group = optimizer.state_dict()["param_groups"][0]
    assert (group["norm"], group["scaled"], group["route"], group["smallest"]) == ("spectral", False, "exact", 1e-4)
    assert optimizer.lmo(optimizer.param_groups[0]) == Spectral(
        scaled=False, polar=PolarOptions(route="exact", smallest=1e-4, tolerance=lmo.polar.tolerance)
    )
    assert Scion([nn.Parameter(torch.ones(2))], norm=NORMS["sign"](scaled=True)).param_groups[0]["norm"] == "sign"


def test_the_closure_is_evaluated_and_its_loss_comes_back():
    parameter = nn.Parameter(torch.ones(3, 3))
    optimizer = Scion([parameter], lr=0.1, norm="euclidean", radius=0.5)

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 9.0
    assert optimizer.step(closure) < 9.0


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Scion([nn.Parameter(torch.ones(3))]), r"Scion under the spectral norm must be a matrix.*norm='sign'"),
        (lambda: Scion([nn.Parameter(torch.ones(3, 3))], lr=1.5), "lr must be .*at most 1.*constrained=False"),
        (lambda: Scion([nn.Parameter(torch.ones(3, 3))], radius=0.0), "radius must be a finite number and above 0"),
        (lambda: Scion([nn.Parameter(torch.ones(3, 3))], norm="nuclear"), "norm must be one of"),
        (lambda: Scion([nn.Parameter(torch.ones(3, 3))], momentum=math.nan), "momentum must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(make, rule):
    with pytest.raises(InputError, match=rule):
        make()
