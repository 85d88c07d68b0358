"""The stacked perceptrons against the plain loop: torch's own autograd and torch's own SGD, one network at a time."""

from itertools import islice

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.studies.eoss.batches import batch_stream, draw
from batchwright.studies.eoss.ensemble import Ensemble, from_models, full_losses, to_model, train_steps
from batchwright.studies.eoss.plain import make_optimizer, train_plainly
from batchwright.studies.eoss.problem import digits_problem, perceptron, squared_error
from batchwright.studies.eoss.settings import Setting
from batchwright.studies.streams import stream

SETTINGS = (
    Setting(lr=0.05, momentum=0.0, batch_size=8),
    Setting(lr=0.03, momentum=0.8, batch_size=8),
    Setting(lr=0.02, momentum=0.5, batch_size=8, nesterov=True),
)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_the_ensemble_is_the_plain_loop(batch_size: int):
    problem = digits_problem(64)
    inputs, targets = problem.inputs.double(), problem.targets.double()
    models = [perceptron(stream(seed, "test")).double() for seed in range(len(SETTINGS))]
    ensemble = from_models(models)
    seeds = range(len(SETTINGS))
    train_steps(
        ensemble, inputs, targets, batch_stream(64, batch_size, [stream(seed) for seed in seeds], 1, 70), SETTINGS
    )
    for index, (model, setting) in enumerate(zip(models, SETTINGS, strict=True)):
        own = batch_stream(64, batch_size, [stream(index)], 1, 70)
        batches = (None if batch is None else batch[0] for batch in own)
        train_plainly(model, make_optimizer(model, setting), inputs, targets, batches)
        for found, wanted in zip(to_model(ensemble, index).parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
        loss = squared_error(model, (inputs, targets)).mean()
        torch.testing.assert_close(full_losses(ensemble, inputs, targets)[index], loss, rtol=1e-9, atol=1e-12)


def test_a_member_that_diverges_leaves_the_others_as_they_are():
    problem = digits_problem(64)
    settings = [Setting(lr=0.05, momentum=0.5, batch_size=8), Setting(lr=50.0, momentum=0.5, batch_size=8)]
    both = from_models([perceptron(stream(0)) for _ in settings])
    alone = both.take([0])
    stepped = [stream(1)]
    train_steps(both, problem.inputs, problem.targets, batch_stream(64, 8, stepped, 2, 40), settings)
    train_steps(alone, problem.inputs, problem.targets, batch_stream(64, 8, [stream(1)], 1, 40), settings[:1])
    losses = full_losses(both, problem.inputs, problem.targets)
    assert not torch.isfinite(losses[1])
    torch.testing.assert_close(losses[:1], full_losses(alone, problem.inputs, problem.targets), rtol=1e-4, atol=0)


def test_state_goes_through_tensors_and_momenta_are_forgotten():
    problem = digits_problem(64)
    ensemble = from_models([perceptron(stream(0))])
    train_steps(ensemble, problem.inputs, problem.targets, batch_stream(64, 8, [stream(1)], 1, 5), SETTINGS[1:2])
    again = Ensemble.from_tensors(ensemble.tensors())
    for name, tensor in ensemble.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
    again.zero_momenta()
    assert all(not tensor.any() for tensor in (*again.weight_momenta, *again.bias_momenta))
    assert any(tensor.any() for tensor in ensemble.weight_momenta)


def test_only_perceptrons_are_stacked():
    with pytest.raises(InputError, match="linear layers with SiLU between them, got Linear, ReLU"):
        from_models([nn.Sequential(nn.Linear(2, 2), nn.ReLU())])
    with pytest.raises(InputError, match="at least one perceptron"):
        from_models([])


def test_batches_hold_no_example_twice_and_are_uniform():
    drawn = draw(20, 5, stream(0), 4000)
    assert all(len(set(batch.tolist())) == 5 for batch in drawn[:200])
    counts = torch.bincount(drawn.flatten(), minlength=20).double()
    # Each example is in a batch with probability 1/4, so counts are binomial.
    assert ((counts - 1000).abs() < 4.5 * (4000 * 0.25 * 0.75) ** 0.5).all()


def test_a_stream_does_not_depend_on_how_far_it_is_taken():
    whole = list(batch_stream(32, 4, [stream(0)], 2, 150))
    part = list(islice(batch_stream(32, 4, [stream(0)], 2, 150), 70))
    assert all(torch.equal(a, b) for a, b in zip(part, whole, strict=False))
    assert torch.equal(whole[0][0], whole[0][1])
