"""The battery over every optimizer that a task can name: it is made, descends, leaves gradients alone and resumes exactly."""

import copy

import pytest
import torch
from torch import nn

from batchwright.optim import build_optimizer
from batchwright.planning import RULES
from batchwright.planning.batch_change import batch_change
from batchwright.planning.optimizer_settings import OptimizerSettings, optimizer_name
from batchwright.tasks.optimizers import KINDS
from batchwright.tasks.task import OptimizerSpec

LR = {"gradient": 0.05, "normalised": 0.01, "ball": 0.02}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))


def make(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    options = {"radii": {"default": 5.0, "head": 5.0}} if name == "scion" else {}
    spec = OptimizerSpec(name=name, lr=LR[KINDS[name].update], momentum=0.9, beta2=0.99, options=options)
    model = make_model()
    return model, build_optimizer(spec, model)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 6, generator=generator)
    labels = (inputs[:, 0] + inputs[:, 1] > 0).long()
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    loss.backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step()
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(model.parameters(), grads, strict=True))
    return float(loss.detach())


@pytest.mark.parametrize("name", KINDS)
def test_an_optimizer_descends_and_leaves_gradients_alone(name):
    model, optimizer = make(name)
    assert type(optimizer).__name__ == KINDS[name].class_name
    losses = [step(model, optimizer) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", KINDS)
def test_an_optimizer_resumes_exactly(name):
    model, optimizer = make(name)
    for _ in range(5):
        step(model, optimizer)
    other, again = make(name)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(5):
        step(model, optimizer)
        step(other, again)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("name", KINDS)
def test_its_settings_follow_the_batch_size_by_its_own_class(name):
    assert optimizer_name(make(name)[1]) == name
    defaults = [rule for rule in RULES if name in rule.default_for]
    assert len({rule.setting for rule in defaults}) == len(defaults) >= 4
    before = OptimizerSettings(lr=0.1, momentum=0.9, beta2=0.99, weight_decay=0.1)
    after = batch_change(name, before, base_batch_size=16, batch_size=64, noise_scale=1e9)
    # Far below the noise scale: in proportion for plain gradients and balls, by the root for normalised ones.
    assert after.lr == pytest.approx({"gradient": 0.4, "normalised": 0.2, "ball": 0.4}[KINDS[name].update], rel=1e-6)
    assert after.beta2 == (pytest.approx(0.99**4) if KINDS[name].has_beta2 else 0.99)
