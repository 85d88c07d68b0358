"""`BatchEngine.step`: what does not fit is tried again in smaller micro-batches, as if they had been small at once."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from batchwright.adapt import NoiseScale
from batchwright.core.errors import DoesNotFitError
from batchwright.training.engine import BatchEngine

from .engine_helpers import CLASSES, DIM, loss, make_data, make_model, parameters


class Limited:
    """A loss on a device with room for so many examples; it runs out after the forward pass has left its traces."""

    def __init__(self, room: int) -> None:
        self.room, self.sizes = room, []

    def __call__(self, model, batch):
        losses = loss(model, batch)
        self.sizes.append(len(losses))
        if len(losses) > self.room:
            raise torch.OutOfMemoryError("simulated")
        return losses


def make_engine(data=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(DIM, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return BatchEngine(model, optimizer, make_data(100) if data is None else data, **options)


@pytest.mark.parametrize("source", ["map-style", "loader"])
def test_a_second_try_is_what_small_micro_batches_would_have_been(source):
    def data():
        return make_data(100) if source == "map-style" else DataLoader(make_data(100), batch_size=15)

    options = {"batch_size": 40, "policy": NoiseScale(cooldown=10**9), "noise_every": 1}
    limited = Limited(12)
    engine, wanted = make_engine(data(), **options), make_engine(data(), **options, micro_batch_size=10)
    for each, function in ((engine, limited), (wanted, loss)):
        torch.manual_seed(3)
        updates = [each.step(function) for _ in range(7)]
        assert all(update.stepped for update in updates)
    assert limited.sizes[:3] == [20, 10, 10]  # measured steps are two parts at least, so 20 is what fails first
    assert engine.micro_batch_size == 10
    assert torch.equal(parameters(engine.model), parameters(wanted.model))
    for mine, other in zip(engine.model.buffers(), wanted.model.buffers(), strict=True):
        assert torch.equal(mine, other)
    assert engine.noise_scale == wanted.noise_scale
    assert engine.num_examples == wanted.num_examples
    assert (engine.num_steps, engine.epoch) == (7, 2)


def test_where_not_even_one_example_fits_it_says_so():
    engine = make_engine(batch_size=10)
    before = parameters(engine.model).clone()
    engine.model.eval()  # batch normalization would refuse one example
    with pytest.raises(DoesNotFitError, match="one example must fit the device's memory"):
        engine.step(Limited(0))
    assert torch.equal(parameters(engine.model), before)


def test_an_error_in_the_optimizers_own_step_is_raised_as_it_is():
    model = make_model()

    class Full(torch.optim.SGD):
        def step(self, closure=None):
            raise torch.OutOfMemoryError("in the step")

    engine = BatchEngine(model, Full(model.parameters(), lr=0.1), make_data(20), batch_size=10)
    with pytest.raises(torch.OutOfMemoryError, match="in the step"):
        engine.step(loss)
    assert engine.micro_batch_size is None


def test_steps_go_on_into_the_next_epoch_also_where_a_last_batch_is_left_out():
    engine = make_engine(batch_size=30, last="drop")
    sizes = [engine.step(loss).batch_size for _ in range(7)]
    assert sizes == [30] * 7
    assert engine.epoch == 2
