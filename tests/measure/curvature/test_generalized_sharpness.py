"""The generalised form is built on the step that the optimizer really takes."""

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.curvature import batch_sharpness_ratio, generalized_sharpness

from .quadratics import Point, draw, loss, parts

MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_meets_a_plain_version_that_steps_the_model_itself(name):
    """For each batch: restore model and optimizer, step with torch, take the difference of the parameters."""
    model = Point().double()
    optimizer = MAKERS[name](model.parameters())
    to_double = [tuple(leaf.double() for leaf in batch) for batch in draw(20, 2, 5)]
    for batch in to_double[:3]:
        optimizer.zero_grad()
        loss(model, batch).mean().backward()
        optimizer.step()
    start = model.theta.detach().clone()
    state = {
        key: value.clone() if isinstance(value, torch.Tensor) else value
        for key, value in optimizer.state.get(model.theta, {}).items()
    }
    curvature, descent = [], []
    for hessians, centres in to_double:
        hessian = hessians.mean(0)
        grad = torch.einsum("bij,bj->bi", hessians, start - centres).mean(0)
        model.theta.data.copy_(start)
        optimizer.state[model.theta] = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        model.theta.grad = grad.clone()
        optimizer.step()
        step = model.theta.detach() - start
        curvature.append(float(step @ hessian @ step))
        descent.append(-float(step @ grad))
    model.theta.data.copy_(start)
    optimizer.state[model.theta] = state
    found = generalized_sharpness(model, loss, to_double, optimizer, relative_error=1e-9)
    assert found.value == pytest.approx(np.mean(curvature) / np.mean(descent), rel=1e-9)
    assert found.headroom == pytest.approx(1 - found.value / 2)
    assert found.optimizer == type(optimizer).__name__
    assert "frozen state" in found.limits


def test_for_plain_sgd_it_is_lr_times_the_ratio_of_expectations():
    model, batches = Point(), draw(30, 2, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.37)
    ratio = batch_sharpness_ratio(model, loss, batches, relative_error=1e-9)
    found = generalized_sharpness(model, loss, batches, optimizer, relative_error=1e-9)
    assert found.value == pytest.approx(0.37 * ratio.value, rel=1e-6)


def test_at_the_edge_a_step_leaves_its_own_batch_loss_where_it_was():
    """What the edge of two means, for one quadratic batch whose lr is chosen to put it there."""
    batch = draw(1, 3, 2)[0]
    hessian, grad = parts(batch)
    model = Point().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=2 * (grad @ grad) / (grad @ hessian @ grad))
    batch = tuple(leaf.double() for leaf in batch)
    assert generalized_sharpness(model, loss, [batch] * 2, optimizer).value == pytest.approx(2, rel=1e-6)
    before = float(loss(model, batch).mean().detach())
    loss(model, batch).mean().backward()
    optimizer.step()
    assert float(loss(model, batch).mean().detach()) == pytest.approx(before, rel=1e-6)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_is_stepped_as_it_is():
    torch.manual_seed(0)
    model = nn.Linear(5, 4, bias=False)
    x = torch.randn(60, 5)
    optimizer = torch.optim.Muon(model.parameters(), lr=0.02)

    def square(model, batch):
        return (model(batch) - 1).square().sum(1)

    found = generalized_sharpness(model, square, list(x.split(6)), optimizer, relative_error=1e-9)
    assert found.optimizer == "Muon"
    assert 0 < found.value < 1
    assert not optimizer.state


def test_parameters_outside_the_optimizer_are_refused():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    with pytest.raises(InputError, match="optimizer must hold every trainable parameter of the model, 1 of 2 are not"):
        generalized_sharpness(model, lambda m, b: m(b).squeeze(1), [], optimizer)
