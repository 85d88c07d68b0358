"""The scatter of the loss over directions, on losses whose scatter has a closed form."""

import math

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.random_potential import random_potential

RADII = (0.25, 0.5, 1.0, 2.0, 4.0)


class Point(nn.Module):
    """A model that is its weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))


def test_a_linear_loss_is_alpha_two_with_the_scatter_of_its_slope():
    """``L = g.w`` over unit directions in ``D`` dimensions has the standard deviation ``r |g| / sqrt(D)``."""
    dim, generator = 400, torch.Generator().manual_seed(0)
    slope = torch.randn(dim, generator=generator)
    found = random_potential(
        Point(dim), lambda model, batch: (model.weight @ slope)[None], (), RADII, generator=generator, num_directions=64
    )
    assert found.alpha.value == pytest.approx(2.0, abs=1e-3)
    for radius, deviation in zip(RADII, found.deviations, strict=True):
        expected = radius * float(slope.norm()) / math.sqrt(dim)
        assert deviation.low <= expected <= deviation.high
        assert deviation.high / deviation.low < 1.6


def test_a_sum_of_brownian_paths_is_alpha_one():
    """``L = sum_i B_i(w_i)``: its increments along a direction have the variance ``r sum |u_i|``, so alpha is 1."""
    dim, cells, reach = 600, 8000, 1.2
    generator = torch.Generator().manual_seed(1)
    width = 2 * reach / cells
    path = torch.cumsum(torch.randn(dim, cells + 1, generator=generator) * width**0.5, dim=1)

    def loss(model, batch):
        place = ((model.weight + reach) / width).round().long().clamp(0, cells)
        return path.gather(1, place[:, None]).sum()[None]

    found = random_potential(Point(dim), loss, (), RADII, generator=generator, num_directions=200)
    assert found.alpha.low <= 1.0 <= found.alpha.high
    assert found.alpha.high - found.alpha.low < 0.5
    # u_i is normal with variance 1/D. Over directions in one potential B_i(r u_i) has the variance r E|u| less that of its mean, which
    # is r E min(|u|, |u'|) / 2, for another direction has the same sign half the time; E min = 2 E|u| - 2/sqrt(pi).
    share = 1 / math.sqrt(math.pi)  # in units of the standard deviation of r u_i
    for radius, deviation in zip(RADII, found.deviations, strict=True):
        expected = math.sqrt(radius * share * math.sqrt(dim))
        # Four standard errors, of 200 directions and of 600 paths.
        assert deviation.value == pytest.approx(expected, rel=4 * math.sqrt(1 / 400 + 1 / 600))


def test_a_measurement_leaves_everything_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    batch = (torch.randn(32, 4), torch.randint(0, 2, (32,)))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state = torch.get_rng_state()

    def loss(network, data):
        return nn.functional.cross_entropy(network(data[0]), data[1], reduction="none")

    first = random_potential(model, loss, batch, RADII, generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    again = random_potential(model, loss, batch, RADII, generator=torch.Generator().manual_seed(3))
    assert first == again  # the same dropout masks at every point
    center = [each.detach().clone() for each in model.parameters()]
    with torch.no_grad():
        for each in model.parameters():
            each.add_(1.0)
    assert (
        random_potential(model, loss, batch, RADII, generator=torch.Generator().manual_seed(3), center=center) == first
    )

    def broken(network, data):
        raise RuntimeError("no")

    before = {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="no"):
        random_potential(model, broken, batch, RADII, generator=torch.Generator())
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_a_loss_without_scatter_has_no_alpha():
    """A loss that is the same in all directions scatters by rounding at most; one that is not finite not at all."""
    found = random_potential(
        Point(5), lambda model, batch: model.weight.sum()[None] * math.nan, (), RADII, generator=torch.Generator()
    )
    assert math.isnan(found.alpha.value)
    assert found.alpha.low == -math.inf


@pytest.mark.parametrize("radii", [(1.0,), (2.0, 1.0), (0.0, 1.0)])
def test_radii_must_rise_from_above_zero(radii):
    with pytest.raises(InputError, match="radii must be"):
        random_potential(Point(3), lambda model, batch: model.weight, (), radii, generator=torch.Generator())
