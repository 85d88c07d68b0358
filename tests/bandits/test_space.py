"""Spaces and perturbations: values, coordinates, balls and neighbourhoods."""

import math

import pytest
import torch

from batchwright.bandits.perturbation import Perturbation, neighbourhoods
from batchwright.bandits.space import Dimension, Space
from batchwright.core.errors import InputError

MIXED = Space.parse(
    "lr=log:1e-4:1,batch_size=log2:16:4096,momentum=0.5:0.99,layers=int:1:8,width=logint:3:300,opt=sgd|adam|muon"
)


def draws(number=4000, seed=0, dim=6):
    return torch.rand(number, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_points_of_a_mixed_space_are_values_that_there_are():
    points = MIXED.from_unit(draws())
    assert bool(MIXED.contains(points).all())
    sizes = points[:, 1].unique()
    assert sizes.tolist() == [2.0**k for k in range(4, 13)]
    assert points[:, 3].unique().tolist() == list(range(1, 9))
    assert points[:, 5].unique().tolist() == [0, 1, 2]
    counts = torch.stack([(points[:, 1] == size).sum() for size in sizes])
    # Each of 9 sizes has an equal share: 444 expected, standard deviation 20.
    assert int((counts - 4000 / 9).abs().max()) < 80
    assert bool((points[:, 4] == points[:, 4].round()).all())
    named = MIXED.named(points[0].tolist())
    assert isinstance(named["batch_size"], int)
    assert named["opt"] in ("sgd", "adam", "muon")
    torch.testing.assert_close(MIXED.point(named), points[0])


def test_places_on_the_cube_go_back_to_the_points():
    points = MIXED.from_unit(draws())
    torch.testing.assert_close(MIXED.from_unit(MIXED.encode_numbers(points)), points)
    encoded = MIXED.encode(points)
    assert encoded.shape[1] == MIXED.width == 8
    assert float(encoded.min()) >= 0
    assert float(encoded.max()) <= 1
    # Two different choices are at distance 1.
    two = points[:1].repeat(2, 1)
    two[:, 5] = torch.tensor([0.0, 2.0])
    assert float((MIXED.encode(two)[0] - MIXED.encode(two)[1]).norm()) == pytest.approx(1.0)
    near = MIXED.near(points[0], 0.05 * (2 * draws() - 1))
    assert bool(MIXED.contains(near).all())
    assert bool((near[:, 5] == points[0, 5]).all())
    assert bool((near[:, 1].log2() == near[:, 1].log2().round()).all())


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, math.inf])
def test_points_around_a_centre_are_in_the_ball_and_in_the_space(norm):
    radius = {"lr": math.log(1.5), "batch_size": math.log(2.0), "momentum": 0.05, "layers": 2, "width": 0.3, "opt": 1.0}
    ball = Perturbation(radius=radius, norm=norm)
    centres = MIXED.from_unit(draws(50))
    around = ball.around(MIXED, centres, 80, torch.Generator().manual_seed(1))
    for centre, points in zip(centres, around, strict=True):
        assert bool(MIXED.contains(points).all())
        assert float(ball.distances(MIXED, centre[None], points).max()) <= 1 + 1e-6
    # They fill the ball: the largest perturbation of the learning rate reaches its rim.
    shift = (around[:, :, 0] / centres[:, None, 0]).log().abs().amax()
    assert float(shift) == pytest.approx(math.log(1.5), rel=1e-9)


def test_the_distance_is_the_norm_of_the_parts_over_their_radii():
    left, right = torch.tensor([[0.01, 64, 0.9, 2, 30, 0.0]]), torch.tensor([[0.02, 128, 0.8, 2, 30, 1.0]])
    left, right = left.double(), right.double()
    radius = {"lr": math.log(4.0), "batch_size": math.log(2.0), "momentum": 0.2, "opt": 2.0}
    parts = torch.tensor([0.5, 1.0, 0.5, 0.5], dtype=torch.float64)
    for norm in (1.0, 2.0, math.inf):
        found = Perturbation(radius=radius, norm=norm).distances(MIXED, left, right)
        assert float(found) == pytest.approx(float(parts.norm(p=norm)))
    still = Perturbation(radius={"lr": 1.0}).distances(MIXED, left, right)
    assert math.isinf(float(still))
    share = Perturbation.relative(MIXED, 0.1)
    assert share.radius["lr"] == pytest.approx(math.log(1.1))
    assert share.radius["momentum"] == pytest.approx(0.049)
    assert "opt" not in share.radius


def test_neighbourhoods_on_a_grid_are_the_footprint():
    axis = torch.arange(12, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    space = Space.box([0, 0], [11, 11])
    near = neighbourhoods(space, grid, Perturbation(radius=2.0))
    values = torch.rand(144, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    padded = torch.nn.functional.pad(-values.reshape(1, 1, 12, 12), (2, 2, 2, 2), value=-math.inf)
    expected = -torch.nn.functional.max_pool2d(padded, 5, stride=1).reshape(-1)
    assert torch.equal(near.minimum(values), expected)
    centre = torch.zeros(144, dtype=torch.bool)
    centre[5 * 12 + 5] = True
    assert int(near.union(centre).sum()) == 25
    assert int(neighbourhoods(space, grid, Perturbation(radius=1.0, norm=1.0)).union(centre).sum()) == 5


def test_wrong_spaces_are_told():
    with pytest.raises(InputError, match="NAME=LOW:HIGH"):
        Space.parse("lr=log:1e-4")
    with pytest.raises(InputError, match="above 0 on a logarithmic axis"):
        Space.parse("lr=log:0:1")
    with pytest.raises(InputError, match="powers of two"):
        Space.parse("batch_size=log2:10:4096")
    with pytest.raises(InputError, match="names of their own"):
        Space(dimensions=(Dimension(name="a"), Dimension(name="a")))
    with pytest.raises(InputError, match="radius must name dimensions"):
        Perturbation(radius={"rate": 0.1}).radii(MIXED)
    with pytest.raises(InputError, match="norm must be from 1"):
        Perturbation(radius=0.1, norm=0.5)
    with pytest.raises(InputError, match="points must have 6 values"):
        MIXED.encode(draws(dim=2))
