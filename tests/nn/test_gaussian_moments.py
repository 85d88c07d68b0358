"""Moments of functions of a Gaussian against samples, quadrature and limits."""

import pytest
import torch
from torch import nn

from batchwright.nn.gaussian_moments import clamp_moments, leaky_relu_moments, pointwise_moments, relu_moments

NUM = 2_000_000
MEANS = torch.tensor([-1.0, 0.0, 0.3, 2.0, 5.5], dtype=torch.float64)
VARIANCES = torch.tensor([0.5, 1.0, 2.0, 1.0, 0.3], dtype=torch.float64)
CLOSED = {
    "relu": (relu_moments, torch.relu),
    "relu6": (lambda m, v: clamp_moments(m, v, 6.0), nn.functional.relu6),
    "leaky": (lambda m, v: leaky_relu_moments(m, v, 0.2), lambda z: nn.functional.leaky_relu(z, 0.2)),
    "silu": (lambda m, v: pointwise_moments(nn.functional.silu, m, v), nn.functional.silu),
    "tanh": (lambda m, v: pointwise_moments(torch.tanh, m, v), torch.tanh),
}


@pytest.fixture(scope="module")
def noise():
    return torch.randn(NUM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", CLOSED)
def test_moments_meet_two_million_samples(name, noise):
    moments, function = CLOSED[name]
    mean, var = moments(MEANS, VARIANCES)
    for place in range(len(MEANS)):
        drawn = function(MEANS[place] + VARIANCES[place].sqrt() * noise)
        error = drawn.std() / NUM**0.5
        assert abs(mean[place] - drawn.mean()) < 4 * error
        squared = (drawn - drawn.mean()).square()
        assert abs(var[place] - drawn.var()) < 4 * squared.std() / NUM**0.5
        if name.startswith("relu") and MEANS[place] >= 0:  # below it the samples themselves are off by as much
            assert abs(mean[place] / drawn.mean() - 1) < 0.005
            assert abs(var[place] / drawn.var() - 1) < 0.005


@pytest.mark.parametrize("moments", [relu_moments, lambda m, v: clamp_moments(m, v, 6.0)])
def test_closed_forms_are_differentiable_twice(moments):
    mean = MEANS.clone().requires_grad_()
    var = VARIANCES.clone().requires_grad_()
    assert torch.autograd.gradcheck(moments, (mean, var))
    assert torch.autograd.gradgradcheck(moments, (mean, var))


def test_relu_moments_far_above_zero_are_those_of_the_gaussian_in_single_precision():
    mean, var = relu_moments(torch.tensor([1000.0]), torch.tensor([1.0]))
    torch.testing.assert_close(mean, torch.tensor([1000.0]), rtol=1e-6, atol=0)
    torch.testing.assert_close(var, torch.tensor([1.0]), rtol=1e-6, atol=0)


def test_relu_moments_far_below_zero_vanish_and_are_never_negative():
    mean, var = relu_moments(torch.tensor([-3.0, -6.0, -30.0]), torch.ones(3))
    assert (var >= 0).all()
    assert (mean >= 0).all()
    assert mean[2] == 0
    assert var[2] == 0


def test_a_variance_of_zero_is_a_point_mass_with_finite_gradients():
    mean = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    var = torch.zeros(3, requires_grad=True)
    found, spread = relu_moments(mean, var)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 2.0]), rtol=0, atol=1e-6)
    assert (spread == 0).all()
    (found.sum() + spread.sum()).backward()
    assert mean.grad.isfinite().all()
    assert var.grad.isfinite().all()


def test_quadrature_meets_the_closed_form_of_the_relu_to_its_stated_error():
    mean, var = pointwise_moments(torch.relu, MEANS, VARIANCES)
    closed = relu_moments(MEANS, VARIANCES)
    assert ((mean - closed[0]).abs() / VARIANCES.sqrt()).max() < 0.01
    assert ((var - closed[1]).abs() / VARIANCES).max() < 0.02
