"""Constants of conditional gradient on problems where each is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure import conditional_gradient_constants
from batchwright.measure.conditional_gradient import huber_slope
from batchwright.optim import Euclidean, Muon, Scion, Sign


class Point(nn.Module):
    def __init__(self, *start: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def normal_batches(number, size, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, dim, dtype=torch.float64, generator=generator) for _ in range(number)]


def quadratic(curvature):
    """``curvature |p|^2 / 2 + p' x``: the gradient noise is the example itself."""
    return lambda model, x: curvature * model.p.square().sum() / 2 + x @ model.p


def test_a_quadratic_with_unit_noise():
    dim, size, curvature = 6, 8, 3.0
    model = Point(*[2.0] * dim)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    found = conditional_gradient_constants(
        model, quadratic(curvature), optimizer, normal_batches(601, size, dim), last=500
    )
    assert found.smoothness.value == pytest.approx(curvature, rel=1e-9)
    # Two batches add their noise to a much smaller difference.
    assert found.smoothness_two_batches.value > 5 * curvature
    assert found.rho.value == pytest.approx(1.0, rel=1e-9)
    assert found.sigma.low <= math.sqrt(dim) <= found.sigma.high
    assert found.sigma.value == pytest.approx(math.sqrt(dim), rel=0.05)
    assert (found.num_steps, found.batch_size) == (600, size)
    assert found.num_gradients == 600 + 2 * 500
    assert found.last_loss < found.first_loss


def test_under_the_sign_norm_the_noise_ratio_is_that_of_a_gaussian():
    """``E |z|_1 / |z|_2`` of a standard normal in ``D`` dimensions is ``D E|z_1| / E|z|_2`` on the sphere."""
    dim = 40
    model = Point(*[0.0] * dim)
    optimizer = Scion(model.parameters(), lr=0.01, norm="sign", constrained=False, scaled=False)
    found = conditional_gradient_constants(model, quadratic(1.0), optimizer, normal_batches(402, 4, dim), last=400)
    length = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    expected = dim * math.sqrt(2 / math.pi) / length
    assert found.rho.low <= expected <= found.rho.high
    assert found.rho.value == pytest.approx(expected, rel=0.01)
    # The l1 norm of the change over the largest entry of the move: every entry moves alike.
    assert found.smoothness.value == pytest.approx(dim, rel=1e-6)


def test_mu_of_an_exponential_is_its_rate():
    rate = 0.7
    model = Point(2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    found = conditional_gradient_constants(
        model,
        lambda m, x: torch.exp(rate * m.p).expand(len(x)),
        optimizer,
        normal_batches(200, 2, 1),
        last=20,
    )
    assert found.mu.value == pytest.approx(rate, rel=1e-4)


def test_huber_is_not_led_astray_and_covers():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(20):
        x = np.linspace(1, 3, 200)
        y = 0.5 + 2 * x + generator.normal(0, 0.1, size=200)
        y[::20] += 5.0
        found = huber_slope(x, y, math.inf)
        assert found.value == pytest.approx(2.0, abs=0.15)
        covered += found.low <= 2.0 <= found.high
    assert covered >= 16
    assert math.isnan(huber_slope(x, y, 1.05).value)
    assert math.isnan(huber_slope(np.ones(50), np.ones(50), math.inf).value)


@pytest.mark.parametrize("kind", ["sgd", "adam", "muon", "scion"])
def test_nothing_is_left_behind(kind):
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.2), nn.Linear(5, 1))
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    optimizer = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "adam": lambda: torch.optim.AdamW(model.parameters(), lr=0.01),
        "muon": lambda: Muon([{"params": matrices}, {"params": vectors, "optimizer": "adamw"}], lr=0.01),
        "scion": lambda: Scion([{"params": matrices}, {"params": vectors, "norm": "sign"}], lr=0.01),
    }[kind]()

    def loss(m, x):
        return m(x).squeeze(1).square()

    batches = [torch.randn(6, 4) for _ in range(25)]
    loss(model, batches[0]).mean().backward()
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()], [p.grad.clone() for p in model.parameters()]
    state, generator = str(optimizer.state_dict()), torch.get_rng_state()
    found = conditional_gradient_constants(model, loss, optimizer, batches, last=20)
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before[0], strict=True))
    assert all(torch.equal(p.grad, kept) for p, kept in zip(model.parameters(), before[1], strict=True))
    assert str(optimizer.state_dict()) == state
    assert torch.equal(torch.get_rng_state(), generator)
    for value in (found.smoothness, found.rho, found.sigma):
        assert 0 < value.value < math.inf
    assert found.rho.value >= (1.0 if kind == "sgd" else 1.0 - 1e-6)


def test_given_norms_and_wrong_input():
    model = Point(1.0, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = normal_batches(21, 2, 2)
    by_hand = conditional_gradient_constants(model, quadratic(1.0), optimizer, batches, last=20, norms={"p": Sign()})
    assert by_hand.rho.value > 1.05
    with pytest.raises(InputError, match="norms must name every trainable parameter, got none for 'p'"):
        conditional_gradient_constants(model, quadratic(1.0), optimizer, batches, last=20, norms={"q": Euclidean()})
    with pytest.raises(InputError, match=r"batches must be at least last \+ 1 = 31, got 21"):
        conditional_gradient_constants(model, quadratic(1.0), optimizer, batches, last=30)
    with pytest.raises(InputError, match="last must be an integer of at least 20, got 5"):
        conditional_gradient_constants(model, quadratic(1.0), optimizer, batches, last=5)
    with pytest.raises(InputError, match="batches must all have one size, got sizes from 2 to 3"):
        conditional_gradient_constants(
            model, quadratic(1.0), optimizer, [*batches[:-1], torch.ones(3, 2, dtype=torch.float64)], last=20
        )
