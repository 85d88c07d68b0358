"""Noise of a whole step against closed forms, and against the plain variance of thousands of gradients at each batch size."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import batchwright as bw
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.gan.step_noise import StepNoise, equal_size, step_noise

DIM = 3


class Scale(nn.Module):
    """y = theta z, z of mean m and unit variance: under the linear kernel every moment of the gradient is known."""

    def __init__(self, theta=0.5):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))


def linear_case(mean_x, mean_z, theta=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = Scale(theta)

    def draw(num):
        x, z = torch.randn(2, num, DIM, generator=generator, dtype=torch.float64)
        return x + mean_x, z + mean_z

    def loss(x, z):
        return bw.gan.mmd2(x, model.theta * z, bw.gan.Linear())

    return model, loss, draw


def linear_moments(batch_size, mean_x, mean_z, theta=0.5):
    """Mean and variance of ``2 theta U(z, z') - 2 mean(x) mean(z)`` for unit variances; all means along one direction of ones."""
    m, n, size = mean_x * DIM**0.5, mean_z * DIM**0.5, batch_size
    mean = 2 * theta * n**2 - 2 * m * n
    # U(z, z') - its mean = 2/B sum <n, e> + off-diagonal mean <e, e'>; mean(x) mean(z) - its mean = <m, e_z> + <n, e_x> + <e_x, e_z>.
    first = ((4 * theta * n - 2 * m) ** 2 + 4 * n**2) / size
    second = 4 * theta**2 * 2 * DIM / (size * (size - 1)) + 4 * DIM / size**2
    return mean, first + second


@pytest.mark.parametrize(("mean_x", "mean_z"), [(1.0, 0.5), (0.2, 0.3)])
def test_variance_and_mean_are_those_of_the_closed_form(mean_x, mean_z):
    for batch_size in (2, 8, 32):
        model, loss, draw = linear_case(mean_x, mean_z)
        found = step_noise(model, loss, draw, batch_size=batch_size, num_batches=4000)
        mean, variance = linear_moments(batch_size, mean_x, mean_z)
        assert found.num_batches == 4000
        assert found.variance == pytest.approx(variance, rel=0.1)
        assert found.grad_sq_norm == pytest.approx(mean**2, rel=0.1, abs=4 * 2 * abs(mean) * (variance / 4000) ** 0.5)


def test_a_loss_that_is_a_mean_over_examples_has_its_noise_scale_as_the_equal_size():
    # y = z + theta: the gradient is 2 (mean y - mean x), so tr(Sigma) = 4 * 2 * DIM and |G|^2 = 4 |shift|^2.
    generator = torch.Generator().manual_seed(0)
    model = nn.Module()
    model.theta = nn.Parameter(torch.full((DIM,), 0.4, dtype=torch.float64))

    def draw(num):
        return tuple(torch.randn(2, num, DIM, generator=generator, dtype=torch.float64))

    def loss(x, z):
        return bw.gan.mmd2(x, z + model.theta, bw.gan.Linear())

    wanted = 2 * DIM / (DIM * 0.4**2)
    points = [step_noise(model, loss, draw, batch_size=size, num_batches=400) for size in (4, 16, 64)]
    found = equal_size(points)
    assert found.size.low < wanted < found.size.high
    assert found.size.value == pytest.approx(wanted, rel=0.15)
    assert found.first_order > 0.9


@pytest.mark.parametrize("num_batches", [24])
def test_the_interval_holds_the_true_size_as_often_as_it_says(num_batches):
    # Both orders matter here: at the equal size (about 7) the second order is a third of the variance.
    mean_x, mean_z, hits, repeats = 0.8, 0.35, 0, 150
    sizes = torch.arange(2, 200, dtype=torch.float64)
    ratios = torch.tensor([v / m**2 for m, v in (linear_moments(float(s), mean_x, mean_z) for s in sizes)])
    true = float(sizes[(ratios - 1).abs().argmin()])
    for seed in range(repeats):
        model, loss, draw = linear_case(mean_x, mean_z, seed=seed)
        point = step_noise(model, loss, draw, batch_size=16, num_batches=num_batches)
        size = equal_size([point]).size
        hits += size.low <= true <= size.high
    # 95 % nominal: fewer than 134 of 150 has a chance below 1 in 200.
    assert hits >= 134


def test_the_equal_size_of_a_small_mmd_gan_is_that_of_thousands_of_plain_gradients():
    torch.manual_seed(0)
    generator_network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    critic = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    random = torch.Generator().manual_seed(1)
    kernel = bw.gan.GaussianMixture((1.0,))

    def draw(num):
        x, z = torch.randn(2, num, 2, generator=random, dtype=torch.float64)
        return x + 1.0, z

    def loss(x, z):
        return bw.gan.mmd2(critic(x), critic(generator_network(z)), kernel)

    def plain(size, repeats=1500):
        grads = []
        for _ in range(repeats):
            found = torch.autograd.grad(loss(*draw(size)), list(generator_network.parameters()))
            grads.append(torch.cat([grad.flatten() for grad in found]))
        stacked = torch.stack(grads)
        variance = stacked.var(dim=0).sum()
        return float(variance / (stacked.mean(dim=0).square().sum() - variance / repeats))

    oracle = {size: plain(size) for size in (4, 8, 16, 32)}
    sizes = sorted(oracle)
    # The bracket: B r(B) never grows, B (B - 1) r(B) never falls; four standard errors of 1,500 draws are about 15 %.
    for small, large in pairwise(sizes):
        assert large * oracle[large] < 1.15 * small * oracle[small]
        assert large * (large - 1) * oracle[large] > small * (small - 1) * oracle[small] / 1.15
    points = [step_noise(generator_network, loss, draw, batch_size=size, num_batches=100) for size in (8, 32)]
    for point in points:
        assert point.ratio.low < oracle[point.batch_size] < point.ratio.high
    found = equal_size(points)
    near = min(sizes, key=lambda size: abs(oracle[size] - 1))
    ends = sorted((near * oracle[near], (near * (near - 1) * oracle[near]) ** 0.5))
    assert found.size.low < ends[1] * 1.15
    assert found.size.high > ends[0] / 1.15
    assert found.size.high / found.size.low < 4


def test_the_model_is_left_as_it_was_and_sizes_without_a_signal_say_so():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = [value.clone() for value in model.state_dict().values()]

    def draw(num):
        return tuple(torch.randn(2, num, 2, generator=generator))

    found = step_noise(model, lambda x, z: bw.gan.mmd2(x, model(z)), draw, batch_size=8, num_batches=8)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.seconds != found.seconds
    unresolved = Interval(value=float("inf"), low=3.0, high=float("inf"))
    point = StepNoise(
        batch_size=16, ratio=unresolved, variance=1.0, grad_sq_norm=-1.0, num_batches=8, seconds=float("nan")
    )
    size = equal_size([point]).size
    assert not equal_size([point]).resolved
    assert size.low == pytest.approx(0.5 + (0.25 + 16 * 15 * 3) ** 0.5)
    assert size.value == float("inf")
    with pytest.raises(InputError, match="num_batches must be an integer of at least 8"):
        step_noise(model, lambda x, z: bw.gan.mmd2(x, model(z)), draw, batch_size=8, num_batches=4)
    with pytest.raises(InputError, match="points must hold at least one measured batch size"):
        equal_size([])


def test_the_clock_gives_seconds_of_a_gradient():
    model, loss, draw = linear_case(1.0, 0.5)
    ticks = iter((10.0, 30.0))
    assert step_noise(model, loss, draw, batch_size=4, num_batches=10, clock=lambda: next(ticks)).seconds == 2.0
