"""Statistics of single examples beside a step, against gradients that are held whole."""

import pytest
import torch
from torch import nn

from batchwright.core.objectives import accumulate_gradient
from batchwright.core.preserve import RandomState
from batchwright.core.vectors import flatten, gradients, trainable
from batchwright.measure.gradient_statistics import GradientStatistics, gradient_diversity
from batchwright.tasks.char_gpt import CharGPT, sequence_loss
from batchwright.training.step_examples import EpochDiversity, example_statistics


def loss(model, batch):
    return (model(batch[0]).squeeze(1) - batch[1]).square()


def setting(*, dropout: float = 0.0, length: int = 24):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, 1))
    return model, (torch.randn(length, 5), torch.randn(length))


def rows(model, batch):
    """One gradient an example."""
    found = [torch.autograd.grad(value, trainable(model), retain_graph=True) for value in loss(model, batch)]
    return torch.stack([flatten(each) for each in found])


def test_statistics_of_a_step_are_those_of_its_whole_gradients():
    model, batch = setting()
    expected = GradientStatistics.of(rows(model, batch))
    start = RandomState.capture()
    accumulate_gradient(model, loss, batch, sizes=[10, 9, 5])
    found = example_statistics(model, loss, batch, [10, 9, 5], start)
    assert found.trace == pytest.approx(expected.trace, rel=1e-5)
    assert found.grad_sq_norm == pytest.approx(expected.grad_sq_norm - expected.trace / 24, rel=1e-4)
    assert found.inner_product_variance == pytest.approx(float(expected.inner_products.var()), rel=1e-4)


def test_statistics_of_a_step_with_fused_attention_are_those_of_its_whole_gradients():
    torch.manual_seed(3)
    model = CharGPT(num_symbols=11, context=12, width=16, num_heads=2, num_layers=1)
    batch = (torch.randint(11, (9, 13)),)
    losses = sequence_loss(model, batch)
    grads = [torch.autograd.grad(value, trainable(model), retain_graph=True) for value in losses]
    expected = GradientStatistics.of(torch.stack([flatten(each) for each in grads]))
    start = RandomState.capture()
    accumulate_gradient(model, sequence_loss, batch, sizes=[5, 4])
    found = example_statistics(model, sequence_loss, batch, [5, 4], start)
    assert found.trace == pytest.approx(expected.trace, rel=1e-4)
    assert found.inner_product_variance == pytest.approx(float(expected.inner_products.var()), rel=1e-3)


def test_dropout_falls_as_in_the_step_and_nothing_is_changed():
    model, batch = setting(dropout=0.5)
    torch.manual_seed(7)
    parts = [(batch[0][:14], batch[1][:14]), (batch[0][14:], batch[1][14:])]
    expected = GradientStatistics.of(torch.cat([rows(model, part) for part in parts]))
    torch.manual_seed(7)
    start = RandomState.capture()
    accumulate_gradient(model, loss, batch, sizes=[14, 10])
    gradient, state = flatten(gradients(trainable(model))), torch.get_rng_state()
    found = example_statistics(model, loss, batch, [14, 10], start)
    assert torch.equal(flatten(gradients(trainable(model))), gradient)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.trace == pytest.approx(expected.trace, rel=1e-4)
    assert found.inner_product_variance == pytest.approx(float(expected.inner_products.var()), rel=1e-4)


def test_diversity_of_a_whole_epoch_is_its_definition():
    model, batch = setting()
    expected = gradient_diversity(GradientStatistics.of(rows(model, batch)))
    epoch = EpochDiversity(24)
    for begin in range(0, 24, 8):
        part = (batch[0][begin : begin + 8], batch[1][begin : begin + 8])
        model.zero_grad()
        start = RandomState.capture()
        accumulate_gradient(model, loss, part)
        epoch.add(model, loss, part, [8], start)
    assert epoch.close() == pytest.approx(expected, rel=1e-5)
    assert epoch.close() is None


def test_a_quarter_of_an_epoch_tells_its_diversity_without_bias():
    # The mean of 1 / diversity over draws: the squared norm is what was put right, and it stands above the line.
    model, batch = setting(length=96)
    expected = gradient_diversity(GradientStatistics.of(rows(model, batch)))
    found = []
    for _ in range(300):
        chosen = torch.randperm(96)[:24]
        part = (batch[0][chosen], batch[1][chosen])
        model.zero_grad()
        start = RandomState.capture()
        accumulate_gradient(model, loss, part)
        epoch = EpochDiversity(96)
        epoch.add(model, loss, part, [24], start)
        found.append(epoch.close())
    inverse = torch.tensor([1 / value for value in found if value is not None])
    assert len(inverse) > 290
    error = float(inverse.std() / len(inverse) ** 0.5)
    assert abs(float(inverse.mean()) - 1 / expected) < 4 * error + 0.02 / expected
