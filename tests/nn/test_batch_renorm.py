"""Batch renorm against its formula, BatchNorm at one end of its limits, evaluation at the other."""

import copy

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.nn import BatchRenorm1d, BatchRenorm2d, convert

NOW = {"warmup_steps": 0, "r_steps": 0, "d_steps": 0}


def layer_with_statistics(**options):
    torch.manual_seed(0)
    layer = BatchRenorm2d(3, dtype=torch.float64, **{**NOW, **options})
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return layer


def test_without_limits_training_gives_evaluations_output():
    layer = layer_with_statistics(r_max=float("inf"), d_max=float("inf"))
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    expected = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"r_max": 1.0, "d_max": 0.0}, {"warmup_steps": 9, "r_steps": 9, "d_steps": 9}], ids=str
)
def test_closed_limits_and_the_warm_up_are_batch_norm(options):
    layer = layer_with_statistics(**options)
    reference = nn.BatchNorm2d(3, momentum=0.01, dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    z = x.detach().clone().requires_grad_()
    weight = torch.randn_like(x)
    out, expected = layer(x), reference(z)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(x.grad, z.grad, rtol=0, atol=1e-11)
    torch.testing.assert_close(layer.state_dict(), reference.state_dict(), rtol=0, atol=1e-12)


def test_the_output_is_the_papers_formula_and_the_correction_has_no_gradient():
    layer = layer_with_statistics(r_max=1.05, d_max=0.3)
    mu, sigma = layer.running_mean.clone(), (layer.running_var + layer.eps).sqrt()
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    mean, deviation = x.mean((0, 2, 3)), (x.var((0, 2, 3), correction=0) + layer.eps).sqrt()
    r = (deviation / sigma).clamp(1 / 1.05, 1.05).detach()
    d = ((mean - mu) / sigma).clamp(-0.3, 0.3).detach()
    assert (r == 1 / 1.05).any()  # a limit binds

    def shaped(value):
        return value[:, None, None]

    normalised = (x - shaped(mean)) / shaped(deviation) * shaped(r) + shaped(d)
    expected = shaped(layer.weight) * normalised + shaped(layer.bias)
    weight = torch.randn_like(x)
    inputs = (x, layer.weight, layer.bias)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    out = layer(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad((out * weight).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_the_limits_widen_as_the_paper_says():
    layer = BatchRenorm1d(2)
    found = []
    for step in (0, 5000, 15000, 22500, 25000, 40000, 90000):
        layer.num_batches_tracked.fill_(step)
        found.append(tuple(round(float(limit), 4) for limit in layer.limits()))
    assert found == [(1.0, 0.0), (1.0, 0.0), (1.5714, 2.5), (2.0, 4.375), (2.1429, 5.0), (3.0, 5.0), (3.0, 5.0)]


def test_gradients_by_gradcheck():
    layer = layer_with_statistics(r_max=1.2, d_max=0.3).eval()
    state = copy.deepcopy(layer.state_dict())

    def call(x):
        again = BatchRenorm2d(3, dtype=torch.float64, **NOW, r_max=1.0, d_max=0.0)
        again.load_state_dict(state)
        return again(x)

    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))


def test_a_batch_norm_becomes_one_and_keeps_its_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.2), nn.BatchNorm3d(4))
    model[1].running_mean.fill_(2.0)
    done = convert(model, "renorm", r_max=2.0, **NOW)
    assert isinstance(model[1], BatchRenorm2d)
    assert (model[1].momentum, model[1].r_max) == (0.2, 2.0)
    assert model[1].running_mean.tolist() == [2.0] * 4
    assert "volumes" in done.kept[0].why


def test_options_are_checked():
    with pytest.raises(InputError, match=r"r_max must be a finite number and at least 1, got 0.5"):
        BatchRenorm1d(2, r_max=0.5)
    with pytest.raises(InputError, match="r_steps must be an integer of at least 5000, got 10; the limits widen"):
        BatchRenorm1d(2, r_steps=10)
    with pytest.raises(InputError, match="at least 2 values a channel in training, got 1"):
        BatchRenorm1d(2)(torch.ones(1, 2))
