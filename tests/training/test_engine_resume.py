"""A run that is killed and goes on from its states is bit by bit the run that never was, also across a change of batch size."""

import copy
import io
import json
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from batchwright.adapt import Geometric, NoiseScale, Schedule
from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState
from batchwright.planning.example_clock import ExampleClock
from batchwright.training.engine import BatchEngine

from .engine_helpers import loss, make_data, make_model, parameters

NUM_UPDATES = 30


class Job:
    """All that a user's script makes at its start."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        self.model = make_model(dropout=0.3)  # its masks come from the global generator
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        options = {"micro_batch_size": 8, "policy": NoiseScale(cooldown=3, max_batch_size=24), "noise_every": 1}
        data = make_data(150)
        self.weighted = kind == "weights"
        if kind == "clock and scaler":
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 50)
            options["clock"] = ExampleClock(scheduler, examples_per_step=8)
            options["scaler"] = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=5)
            options["max_grad_norm"] = 0.5
        elif kind == "workers":
            options |= {"num_workers": 1, "last": "wrap"}
        elif kind == "loader":
            data = DataLoader(data, batch_size=10, shuffle=True)
        elif kind == "schedule":
            options["policy"] = Schedule(schedule="0:4 60:24 300:9")
        self.engine = BatchEngine(self.model, self.optimizer, data, **options)
        self.losses: list[float] = []

    def go(self, num_updates: int) -> "Job":
        while self.engine.num_updates < num_updates:
            for update in self.engine:
                for batch in update:
                    losses = loss(self.model, batch)
                    update.backward(losses, torch.rand(len(losses)) if self.weighted else None)
                self.losses.append(update.loss)
                if self.engine.num_updates == num_updates:
                    break
        return self

    def states(self):
        """As a checkpoint gives them back: written and read without unpickling anything but tensors and plain values."""
        buffer = io.BytesIO()
        states = self.model.state_dict(), self.optimizer.state_dict(), self.engine.state_dict()
        torch.save(states, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    def load(self, states) -> "Job":
        model, optimizer, engine = states
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.engine.load_state_dict(engine)
        return self


@pytest.mark.parametrize("kind", ["plain", "weights", "clock and scaler", "schedule", "loader", "workers"])
def test_a_resumed_run_is_bit_by_bit_the_same(kind):
    whole = Job(kind).go(NUM_UPDATES)
    end = whole.engine.state_dict()
    assert whole.engine.batch_size != 8
    assert whole.engine.epoch >= 1
    for cut in (3, 17):
        states = Job(kind).go(cut).states()
        torch.manual_seed(99)
        resumed = Job(kind).load(states).go(NUM_UPDATES)
        assert torch.equal(parameters(resumed.model), parameters(whole.model))
        assert resumed.losses == whole.losses[cut:]
        found = resumed.engine.state_dict()
        assert {key: found[key] for key in ("counts", "choice", "scaler")} == {
            key: end[key] for key in ("counts", "choice", "scaler")
        }
        assert torch.equal(found["random"]["torch_cpu"], end["random"]["torch_cpu"])
        assert resumed.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_at_every_update_of_an_epoch_a_resumed_run_is_the_same():
    whole = Job("schedule").go(NUM_UPDATES)
    for cut in range(1, NUM_UPDATES):
        states = Job("schedule").go(cut).states()
        assert torch.equal(parameters(Job("schedule").load(states).go(NUM_UPDATES).model), parameters(whole.model))


def test_the_state_is_tensors_and_plain_values():
    def walk(value):
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(item) for item in value]
        return "tensor" if isinstance(value, torch.Tensor) else value

    for kind in ("plain", "clock and scaler", "weights", "loader"):
        state = walk(Job(kind).go(5).engine.state_dict())
        state.pop("clock")  # as the user's scheduler makes it
        assert json.loads(json.dumps(state)) == state


def test_random_states_survive_plain_values():
    before = RandomState.capture()
    state = json.loads(json.dumps({**before.to_state(), "torch_cpu": None}))
    wanted = torch.rand(3), np.random.rand(), random.random()
    RandomState.from_state({**state, "torch_cpu": before.torch_cpu}).restore()
    assert torch.equal(torch.rand(3), wanted[0])
    assert (np.random.rand(), random.random()) == wanted[1:]


def test_a_state_of_another_engine_is_refused():
    state = Job("plain").go(3).engine.state_dict()
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def engine(num_examples=150, **options):
        options = {"policy": NoiseScale(), **options}
        return BatchEngine(model, optimizer, make_data(num_examples), micro_batch_size=8, **options)

    engine().load_state_dict(state)
    with pytest.raises(InputError, match="policy Geometric, got NoiseScale"):
        engine(policy=Geometric(every=10)).load_state_dict(state)
    with pytest.raises(InputError, match="data set of 140 examples, got map of 150"):
        engine(140).load_state_dict(state)
    with pytest.raises(InputError, match="scaler must be given as in the run, got one"):
        engine(scaler=torch.amp.GradScaler("cpu")).load_state_dict(state)
    with pytest.raises(InputError, match="schema 1 or older, got 2"):
        engine().load_state_dict({**state, "schema": 2})
    two = torch.optim.AdamW([{"params": [p]} for p in model.parameters()], lr=0.01)
    other = BatchEngine(model, two, make_data(150), micro_batch_size=8, policy=NoiseScale())
    with pytest.raises(InputError, match="4 parameter groups, got 1"):
        other.load_state_dict(state)


def test_a_state_is_a_value_that_the_run_does_not_change():
    job = Job("weights").go(4)
    states = job.states()
    state = job.engine.state_dict()
    kept = copy.deepcopy(state)
    job.go(9)
    for name in ("choice", "stream", "counts"):
        assert state[name] == kept[name]
    assert torch.equal(parameters(Job("weights").load(states).go(9).model), parameters(job.model))
    assert isinstance(job.model, nn.Module)
