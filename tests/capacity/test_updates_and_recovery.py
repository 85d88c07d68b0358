"""Directions of the optimizers against plain formulas, what is recovered against a loop, and training."""

import pytest
import torch

from batchwright.capacity import (
    AssociativeMemory,
    Muon,
    make_update,
    newton_schulz_depth,
    one_step,
    recovered_items,
    summarise,
    thresholded_step,
    train,
)
from batchwright.core.errors import InputError


@pytest.fixture(scope="module")
def memory():
    return AssociativeMemory(dim=10, num_items=40, alpha=1.5, seed=[0, 1])


def test_muon_is_the_smoothed_map(memory):
    gradient = memory.negative_gradient()
    for smoothing in (0.0, 0.02):
        found = Muon(smoothing=smoothing)(memory, gradient)
        for one, matrix in zip(found, gradient, strict=True):
            values, vectors = torch.linalg.eigh(matrix.mT @ matrix + smoothing**2 * torch.eye(10, dtype=torch.float64))
            plain = matrix @ vectors @ (values.rsqrt()[:, None] * vectors.mT)
            torch.testing.assert_close(one, plain, rtol=1e-7, atol=1e-9)


def test_directions_that_a_small_batch_does_not_have_stay_empty(memory):
    weights = memory.sample_weights(3)
    seen = (weights > 0).sum(-1)
    direction = one_step(memory, Muon(), batch_size=3)
    values = torch.linalg.svdvals(direction)
    for row, rank in zip(values, seen, strict=True):
        torch.testing.assert_close(row[:rank], torch.ones_like(row[:rank]))
        assert float(row[rank:].abs().max()) < 1e-12


def test_newton_schulz_comes_near_the_polar_factor_at_its_depth_and_not_before():
    memory = AssociativeMemory(dim=48, num_items=400, alpha=2.0, seed=0)
    gradient = memory.negative_gradient()
    enough = newton_schulz_depth(48, 2.0)
    assert enough == 12
    deep = torch.linalg.svdvals(Muon(newton_schulz_steps=enough)(memory, gradient))
    assert float(deep.min()) > 0.6
    assert float(deep.max()) < 1.25
    shallow = torch.linalg.svdvals(Muon(newton_schulz_steps=3)(memory, gradient))
    assert float(shallow.min()) < 0.1


def test_newton_and_normalised_sgd(memory):
    gradient = memory.negative_gradient()
    second = torch.einsum("n,sni,snj->sij", memory.probabilities, memory.inputs.double(), memory.inputs.double())
    torch.testing.assert_close(make_update("newton")(memory, gradient), gradient @ torch.linalg.inv(second))
    normalised = make_update("normalized-sgd")(memory, gradient)
    torch.testing.assert_close(torch.linalg.matrix_norm(normalised, 2), torch.ones(2, dtype=torch.float64))
    assert torch.equal(make_update("sgd")(memory, gradient), gradient)
    assert not make_update("normalized-sgd")(memory, torch.zeros_like(gradient)).isnan().any()


def test_recovered_is_the_argmax_of_a_plain_loop(memory):
    matrix = one_step(memory, Muon())
    found = recovered_items(memory, 1e-9 * matrix, num_queries=30)
    for draw in range(2):
        outputs, inputs = memory.outputs[draw].double(), memory.inputs[draw].double()
        for item in range(30):
            assert bool(found[draw, item]) == (int((outputs @ (matrix[draw] @ inputs[item])).argmax()) == item)
    assert not recovered_items(memory, memory.zeros()).any()
    assert recovered_items(memory, matrix, first=5).shape == (2, 35)


def test_count_prefix_and_missed_mass_by_hand(memory):
    recovered = torch.ones(2, 40, dtype=torch.bool)
    recovered[0, 10:] = False  # 10 of 11 is 0.909, 10 of 12 is 0.83
    recovered[1, 0] = False  # nothing until 9 of 10
    found = summarise(memory, recovered)
    assert found.count.tolist() == [10, 39]
    assert found.prefix.tolist() == [11, 40]
    shares = memory.probabilities
    expected = torch.stack([shares[10:].sum(), shares[0]])
    torch.testing.assert_close(found.missed_mass, expected)
    assert summarise(memory, recovered[:, :5]).missed_mass[0] == pytest.approx(float(shares[5:].sum()))
    assert summarise(memory, torch.zeros(2, 40, dtype=torch.bool)).prefix.tolist() == [0, 0]


@pytest.mark.parametrize(("dim", "muon", "sgd"), [(32, 21, 4.0), (64, 52, 3.7), (128, 126, 5.0)])
def test_counts_are_those_of_the_specification(dim, muon, sgd):
    """T2.1 at alpha = 2, as the mean of five draws; the printed counts are means of one to three."""
    memory = AssociativeMemory(dim=dim, num_items=int(8 * dim**1.25), alpha=2.0, seed=range(5))
    queries = int(3 * dim**1.25)
    found = {
        name: summarise(memory, recovered_items(memory, one_step(memory, update), num_queries=queries)).count
        for name, update in (("muon", Muon()), ("sgd", make_update("sgd")))
    }
    assert float(found["muon"].double().mean()) == pytest.approx(muon, rel=0.12)
    assert float(found["sgd"].double().mean()) == pytest.approx(sgd, abs=2.0)


def test_training_begins_with_the_first_step_and_lowers_the_loss(memory):
    found = train(memory, make_update("sgd"), lr=5.0, num_steps=8)
    assert [each.step for each in found] == [1, 2, 4, 8]
    first = 5.0 * one_step(memory, make_update("sgd"))
    torch.testing.assert_close(found[0].loss, memory.loss(first))
    losses = torch.stack([each.loss for each in found])
    assert (losses.diff(dim=0) < 0).all()
    batches = train(memory, Muon(), lr=0.5, num_steps=3, batch_size=20, record_at=(3,), num_queries=10)
    assert [each.recovery.num_queries for each in batches] == [10]


def test_items_that_dropped_out_leave_the_gradient(memory):
    found = thresholded_step(memory, make_update("sgd"), num_removed=4)
    weights = memory.probabilities.clone()
    weights[:4] = 0
    gradient = torch.einsum("n,sni,snj->sij", weights, memory.outputs.double(), memory.inputs.double())
    assert torch.equal(found, recovered_items(memory, gradient)[:, 4:])


def test_wrong_options_are_named():
    with pytest.raises(InputError, match="optimizer must be one of muon, sgd"):
        make_update("adam")
    with pytest.raises(InputError, match="must go with muon, got 'sgd'"):
        make_update("sgd", smoothing=0.1)
    with pytest.raises(InputError, match="must go without smoothing"):
        Muon(smoothing=0.1, newton_schulz_steps=5)
