"""The rules that no other test goes through: dropout, slices, scalars, pooling, functions by name, in traces of small models."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import batchwright as bw
from batchwright.core.errors import InputError
from batchwright.nn import ChannelState, follow_rule
from batchwright.nn.kalman_target import followed_steps

NUM = 400_000


def state_of(*, mean: float, var: float, channels: int = 4) -> ChannelState:
    mean_row, var_row = (torch.full((1, channels), value, dtype=torch.float64) for value in (mean, var))
    return ChannelState(mean=mean_row, var=var_row)


def test_dropout_meets_samples_and_does_nothing_in_evaluation():
    generator = torch.Generator().manual_seed(0)
    z = 0.8 + 1.2 * torch.randn(NUM, generator=generator, dtype=torch.float64)
    drawn = z * (torch.rand(NUM, generator=generator) >= 0.3) / 0.7
    layer = nn.Dropout(0.3)
    found = follow_rule("dropout", [state_of(mean=0.8, var=1.44)], layer)
    assert abs(float(found.mean[0, 0]) - drawn.mean()) < 4 * drawn.std() / NUM**0.5
    squared = (drawn - drawn.mean()).square()
    assert abs(float(found.var[0, 0]) - drawn.var()) < 4 * squared.std() / NUM**0.5
    assert float(follow_rule("dropout", [state_of(mean=0.8, var=1.44)], layer.eval()).var[0, 0]) == 1.44


def test_a_relu_of_a_relu_is_the_relu():
    once = follow_rule("relu", [state_of(mean=0.1, var=1.0)])
    assert follow_rule("relu", [once]) is once


class Way(nn.Module):
    """A norm, a function, and a norm."""

    def __init__(self, function, channels=4):
        super().__init__()
        self.conv, self.first = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.function, self.second = function, nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.second(self.function(self.first(self.conv(x))))


FOLLOWED = {
    "half of the pixels": (lambda x: x[:, :, ::2, ::2], 4, 1.0),
    "some channels": (lambda x: x[:, 1:3], 2, 1.0),
    "twice": (lambda x: x + x, 4, 4.0),
    "scaled": (lambda x: 3 * x - 1, 4, 9.0),
    "divided": (lambda x: x / 2, 4, 0.25),
    "less a number": (lambda x: 2 - x, 4, 1.0),
    "pooled": (lambda x: functional.avg_pool2d(functional.max_pool2d(x, 2), 2), 4, 1.0),
    "upsampled": (lambda x: functional.interpolate(x, scale_factor=2.0), 4, 1.0),
    "methods": (lambda x: x.contiguous().clone(), 4, 1.0),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_function_is_followed_with_the_variance_it_has(name):
    function, channels, factor = FOLLOWED[name]
    model = Way(function, channels)
    done = bw.nn.convert(model, "kalman", ghost_size=2)
    assert done.changed[1].why == "prior from 'first'"
    assert model.second.source.prior().var.detach().tolist() == [[factor] * channels]
    model(torch.randn(4, 3, 10, 10)).sum().backward()


LOST = {
    "softmax": (lambda x: x.softmax(1), "'softmax' is not followed"),
    "transposed": (lambda x: x.transpose(2, 3), "'transpose' is not followed"),
    "shuffled": (lambda x: x.view(x.size(0), 2, 2, -1), "'view' is not followed"),
    "examples": (lambda x: x[::2], "'getitem' is not followed"),
    "squared": (lambda x: x * x, "'mul' is not followed"),
    "joined along pixels": (lambda x: torch.cat([x, x], 2), "'cat' is not followed"),
    "over channels": (lambda x: x.mean((1, 2)), "'mean' is not followed"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_mixes_channels_or_is_unknown_is_not_followed(name):
    function, why = LOST[name]
    steps = followed_steps(Way(function))
    assert [step.why_not for step in steps if step.rule == "norm"][1] == why


def test_a_layer_of_ones_own_around_a_convolution_is_not_taken_for_it():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return functional.conv2d(x, self.weight / self.weight.std(), self.bias, padding=self.padding)

    steps = followed_steps(Way(Standardised(4, 4, 3)))
    assert [step.why_not for step in steps if step.rule == "norm"][1] != ""


def test_a_flattened_state_must_divide_the_layers_inputs():
    with pytest.raises(InputError, match="must divide the 10 inputs of the layer, got 4 channels"):
        follow_rule("layer", [state_of(mean=0.0, var=1.0)], nn.Linear(10, 2))
