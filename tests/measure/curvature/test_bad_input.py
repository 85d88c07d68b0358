"""What is out of its range is refused in one line that names it, before any of it is measured."""

import math

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.curvature import (
    StepSettings,
    batch_sharpness,
    batch_sharpness_ratio,
    generalized_sharpness,
    gradient_noise_interaction,
    interaction_aware_sharpness,
    second_moment_growth,
    stability,
    what_if,
)

NUMBERS = {"lr": 0.1, "curvature_mean": 1.0, "curvature_variance": 0.5, "momentum": 0.5}


def refused(call, name):
    with pytest.raises(InputError, match=name) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -0.1), ("lr", math.nan), ("curvature_mean", math.inf), ("curvature_variance", -1.0), ("momentum", 1.0)],
)
def test_second_moments(name, value):
    refused(lambda: second_moment_growth(**{**NUMBERS, name: value}), name)


@pytest.mark.parametrize("name", ["sharpness", "mean_curvature"])
def test_what_if(name):
    now = StepSettings(lr=0.1, batch_size=8)
    refused(lambda: what_if(now, {"lr": 0.2}, batch_sharpness=3.0, **{name: math.inf}), name)


def test_stability_of_no_examples():
    refused(lambda: stability(lr=0.1, batch_sharpness=3.0, num_examples=0), "num_examples")


@pytest.mark.parametrize("batches", [(torch.ones(4, 2), torch.ones(4)), torch.ones(4, 2), {"x": torch.ones(4, 2)}])
@pytest.mark.parametrize(
    "measure", [batch_sharpness, batch_sharpness_ratio, gradient_noise_interaction, interaction_aware_sharpness]
)
def test_one_batch_where_several_are_wanted(measure, batches):
    model = nn.Linear(2, 1)
    refused(lambda: measure(model, lambda m, x: m(x).squeeze(1).square(), batches), "batches must be an iterable")


def test_one_batch_for_an_optimizer():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    refused(
        lambda: generalized_sharpness(model, lambda m, x: m(x).squeeze(1).square(), torch.ones(4, 2), optimizer),
        "batches must be an iterable",
    )
