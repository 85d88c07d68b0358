"""The oracles: on the ball, against closed forms, and no other point of the ball goes farther."""

import math

import pytest
import torch

from batchwright.optim import NORMS, PolarOptions, Spectral
from batchwright.optim.lmo import init_in_ball
from batchwright.optim.polar import svd_polar

EXACT = PolarOptions(route="exact")


def make(name, scaled):
    return Spectral(scaled=scaled, polar=EXACT) if name == "spectral" else NORMS[name](scaled=scaled)


def gradient_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (4, 3, 2, 2)])
@pytest.mark.parametrize("name", NORMS)
def test_the_point_is_on_the_ball_and_none_goes_farther(name, shape, scaled):
    lmo, gradient = make(name, scaled), gradient_of(shape)
    point = lmo(gradient)
    assert point.shape == gradient.shape
    assert float(lmo.norm(point)) == pytest.approx(1.0, rel=1e-6)
    gained = float(-(gradient * point).sum())
    assert gained == pytest.approx(float(lmo.dual_norm(gradient)), rel=1e-6)
    for seed in range(1, 40):
        other = gradient_of(shape, seed)
        other = other / lmo.norm(other)
        assert float(-(gradient * other).sum()) <= gained
    # Near the best point as well: a step along it and back to the ball.
    for seed in range(40, 60):
        other = point + 0.05 * gradient_of(shape, seed)
        other = other / lmo.norm(other)
        assert float(-(gradient * other).sum()) <= gained * (1 + 1e-9)


def test_closed_forms():
    gradient = torch.tensor([[3.0, 0.0], [4.0, 2.0]], dtype=torch.float64)
    assert torch.allclose(make("euclidean", False)(gradient), -gradient / math.sqrt(29))
    assert torch.equal(make("sign", False)(gradient), -gradient.sign())
    assert torch.allclose(make("spectral", False)(gradient), -svd_polar(gradient), atol=2e-6)
    assert torch.allclose(make("row", False)(gradient)[1], -gradient[1] / math.sqrt(20))
    assert torch.allclose(make("column", False)(gradient)[:, 0], -gradient[:, 0] / 5)
    # Scaled, as in Pethick et al. (2025), table 2.
    wide = gradient_of((2, 8))
    for name, factor in (("sign", 1 / 8), ("spectral", 0.5), ("row", 8**-0.5), ("column", 2**0.5), ("euclidean", 4.0)):
        assert torch.allclose(make(name, True)(wide), factor * make(name, False)(wide))
    kernel = gradient_of((4, 16, 3, 3))
    assert torch.allclose(make("spectral", True)(kernel), 0.5 / 9 * make("spectral", False)(kernel))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["euclidean", "sign"])
def test_vectors_go_under_two_of_the_norms(name, scaled):
    lmo, gradient = make(name, scaled), gradient_of((9,))
    assert float(lmo.norm(lmo(gradient))) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "options",
    [
        PolarOptions(),
        PolarOptions(tolerance=0.02),
        PolarOptions(route="polar-express"),
        PolarOptions(route="gram"),
        PolarOptions(route="newton-schulz"),
        PolarOptions(depth=1),
    ],
)
@pytest.mark.parametrize("kind", ["gauss", "spike", "power"])
def test_the_spectral_point_is_never_outside_the_ball(options, kind):
    for seed in range(6):
        gradient = gradient_of((40, 60), seed).float()
        if kind != "gauss":
            left, _, right = torch.linalg.svd(gradient, full_matrices=False)
            tail = torch.arange(1, 41.0) ** -1.2 if kind == "power" else torch.full((40,), 0.03)
            tail[0] = 1.0
            gradient = (left * tail) @ right
        lmo = Spectral(polar=options)
        assert float(lmo.norm(lmo(gradient))) <= 1 + 1e-6


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e30])
def test_the_size_of_the_gradient_is_of_no_account_and_zero_stays_zero(name, size):
    lmo, gradient = NORMS[name](), gradient_of((4, 6)).float()
    point = lmo(gradient * size)
    assert point.isfinite().all()
    if size == 0:
        assert not point.any()
    else:
        assert torch.allclose(point, lmo(gradient), atol=0.01 if size == 1e-38 else 1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_a_fresh_parameter_is_inside_the_ball(name):
    lmo, value = NORMS[name](scaled=True), torch.empty(6, 9)
    for part in (0.5, 1.0):
        init_in_ball(value, lmo, 7.0, part=part, generator=torch.Generator().manual_seed(0))
        assert 7.0 * part * (1 - 1e-4) < float(lmo.norm(value)) <= 7.0 * part
    vector = torch.ones(3)
    init_in_ball(vector, NORMS["sign"](), 1.0)
    assert not vector.any()
