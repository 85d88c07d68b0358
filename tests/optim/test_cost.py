"""The cost of a Muon step: closed forms, and the operations that torch itself counts."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from batchwright.core.errors import InputError
from batchwright.optim import muon_cost
from batchwright.optim.cost import polar_flops
from batchwright.optim.polar import PolarOptions, polar


@pytest.mark.parametrize("size", [64, 256, 1000])
def test_five_quintics_on_a_square_matrix_are_five_rows_of_examples(size):
    cost = muon_cost([(size, size)], route="newton-schulz", depth=5)
    assert cost.batch_size == pytest.approx(5 * size)
    assert cost.share(5 * size) == pytest.approx(0.5)


def test_on_a_wide_matrix_it_is_the_formula():
    m, n = 128, 1024
    for shape in ((m, n), (n, m)):
        cost = muon_cost([shape], route="polar-express", depth=5)
        assert cost.batch_size == pytest.approx(5 * (4 * m + 2 * m * m / n) / 6)


@pytest.mark.parametrize("shape", [(40, 40), (24, 96)])
@pytest.mark.parametrize("route", ["newton-schulz", "polar-express", "gram"])
def test_the_counts_of_the_quintics_are_those_that_torch_counts(route, shape):
    options = PolarOptions(route=route, depth=5)
    with FlopCounterMode(display=False) as counter:
        polar(torch.randn(shape), options)
    assert polar_flops(*shape, route=options.route_for(*shape), options=options) == counter.get_total_flops()


def test_the_count_of_the_rational_route_is_that_of_its_products_and_its_inverses():
    # Torch counts no Cholesky: m^3 / 3 for the factor and 2 m^3 / 3 for the inverse from it.
    options, m, n = PolarOptions(route="rational", depth=3), 256, 400
    with FlopCounterMode(display=False) as counter:
        polar(torch.randn(m, n), options)
    assert polar_flops(m, n, route="rational", options=options) == counter.get_total_flops() + 3 * m**3


def test_a_model_counts_its_own_matrices_and_their_uses():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 32), nn.Linear(32, 10))
    cost = muon_cost(model, uses={"0.weight": 36}, route="newton-schulz", depth=5)
    assert cost.shapes == ((8, 27), (32, 288))
    assert cost.gradient_flops == 6 * (8 * 27 * 36 + 32 * 288)
    assert cost.tokens is None
    tokens = muon_cost(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9)), uses=16, route="newton-schulz", depth=5)
    assert (tokens.batch_size, tokens.tokens) == (pytest.approx(20), pytest.approx(320))
    assert "below 20 examples (320 tokens) an update" in tokens.sentence()
    often = muon_cost(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9)), uses=1024, route="newton-schulz", depth=5)
    assert "below 0.31 examples (320 tokens) an update" in often.sentence()


def test_amortisation_divides_and_the_default_costs_less():
    shapes = [(1024, 1024), (784, 1600)]
    plain = muon_cost(shapes, route="newton-schulz", depth=5)
    assert muon_cost(shapes, route="newton-schulz", depth=5, polar_every=4).batch_size == plain.batch_size / 4
    default = muon_cost(shapes)
    assert default.routes == ("rational", "rational")
    assert default.batch_size < 0.3 * plain.batch_size
    assert muon_cost(shapes, device="cuda").routes == ("polar-express", "polar-express")


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(InputError, match="must have matrices"):
        muon_cost([])
    with pytest.raises(InputError, match=r"uses must name matrices of Muon, got '1.weight'"):
        muon_cost(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), uses={"1.weight": 3})
    with pytest.raises(InputError, match="uses must be an integer of at least 1"):
        muon_cost([(3, 3)], uses=0)
