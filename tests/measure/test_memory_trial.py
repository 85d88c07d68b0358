"""The trial search finds a known ceiling and leaves the run as it was."""

import copy
import doctest

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.core.errors import DoesNotFitError, InputError
from batchwright.measure import memory_trial as module
from batchwright.measure.memory_trial import search, trial_search


@pytest.mark.parametrize("ceiling", [1, 2, 31, 32, 33, 777, 1024, 5000])
@pytest.mark.parametrize("start", [1, 32, 4096])
def test_search_ends_within_the_tolerance_below_the_ceiling(ceiling, start):
    seen = []

    def runs(size: int) -> bool:
        seen.append(size)
        return size <= ceiling

    found = search(runs, at_most=2048, start=start)
    ceiling = min(ceiling, 2048)
    assert ceiling / 1.031 - 1 <= found.max_micro_batch_size <= ceiling
    assert found.num_trials == len(seen) == len(set(seen))
    assert found.num_failed == sum(size > ceiling for size in seen)
    assert max(seen) <= 2048


def test_nothing_that_runs_is_an_error():
    with pytest.raises(DoesNotFitError, match="must fit on at least one example"):
        search(lambda size: False, at_most=100, start=32)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def everything(model, optimizer, generator) -> list:
    tensors = [*model.parameters(), *model.buffers(), *(parameter.grad for parameter in model.parameters())]
    state = [value for values in optimizer.state.values() for value in values.values()]
    return [
        *(tensor.detach().clone() for tensor in [*tensors, *state]),
        torch.get_rng_state(),
        generator.get_state(),
        torch.from_numpy(np.random.get_state()[1].copy()),
    ]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda values: torch.optim.SGD(values, lr=0.1, momentum=0.9)])
def test_generators_optimizer_state_and_model_are_left_alone(make, fails):
    torch.manual_seed(0)
    model, generator = Net().to(torch.bfloat16), torch.Generator().manual_seed(1)
    optimizer = make(model.parameters())

    def step(size: int) -> None:
        np.random.random()
        x = torch.randn(max(size, 2), 4, generator=generator).to(torch.bfloat16)
        model(x).square().mean().backward()
        if size > 100:
            raise RuntimeError("shapes differ") if fails else torch.OutOfMemoryError("simulated")
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9

    step(8)
    before, settings = everything(model, optimizer, generator), copy.deepcopy(optimizer.state_dict()["param_groups"])
    if fails:
        with pytest.raises(RuntimeError, match="shapes differ"):
            trial_search(step, model, optimizer, max_micro_batch_size=1000, generators=[generator])
    else:
        found = trial_search(step, model, optimizer, max_micro_batch_size=1000, generators=[generator])
        assert 97 <= found.max_micro_batch_size <= 100
    after = everything(model, optimizer, generator)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert optimizer.state_dict()["param_groups"] == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_micro_batch_size": 0}, "max_micro_batch_size must be an integer of at least 1"),
        ({"start": 0}, "start must be an integer of at least 1"),
        ({"tolerance": 0.0}, "tolerance must be a finite number and above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    model = nn.Linear(1, 1)
    with pytest.raises(InputError, match=message):
        trial_search(
            lambda size: None,
            model,
            torch.optim.SGD(model.parameters()),
            **{"max_micro_batch_size": 8, **arguments},
        )


def test_examples_of_the_docstrings_run():
    found = doctest.testmod(module, extraglobs={"torch": torch, "nn": nn})
    assert found.attempted >= 3
    assert found.failed == 0
