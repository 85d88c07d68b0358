"""The noise statistics of an update are unbiased for every way in which it is made of micro-batches."""

import random

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from batchwright.adapt import NoiseScale
from batchwright.core.objectives import accumulate_gradient
from batchwright.measure.running_noise import MicroBatchNorms
from batchwright.training.engine import BatchEngine
from batchwright.training.step_noise import StepStatistics

from .engine_helpers import loss, make_data, make_model, run

DIM = 8
MEAN = torch.linspace(-0.3, 0.6, DIM)
TRACE = float(DIM)  # the covariance is the identity


def linear_engine(data: Tensor, **options) -> tuple[BatchEngine, list[StepStatistics]]:
    """A model in which the gradient of an example is the example, whatever the parameters; and what each step measured."""
    model = nn.Linear(DIM, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    options = {"policy": NoiseScale(cooldown=10**9), "noise_every": 1, **options}
    engine = BatchEngine(model, optimizer, TensorDataset(data), **options)
    found: list[StepStatistics] = []
    end = engine.gatherer.end

    def watched(**given) -> StepStatistics:
        found.append(end(**given))
        return found[-1]

    engine.gatherer.end = watched
    return engine, found


def is_mean(values: list[float], wanted: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    assert abs(float(tensor.mean()) - wanted) < 4 * float(tensor.std()) / len(values) ** 0.5


@pytest.mark.parametrize("seed", range(6))
def test_trace_and_squared_gradient_are_unbiased_for_random_splits(seed):
    rng = random.Random(seed)
    batch_size = rng.randint(4, 40)
    data = MEAN + torch.randn(400 * batch_size + batch_size // 2, DIM, generator=torch.Generator().manual_seed(seed))
    engine, found = linear_engine(data, batch_size=batch_size, micro_batch_size=rng.randint(1, batch_size))
    for update in engine:
        for (x,) in update:
            update.backward(engine.model(x).squeeze(1))
    # The last batch of the epoch is short, and counts as it is.
    noises = [each.noise for each in found if each.noise is not None]
    assert len(noises) >= 400
    is_mean([noise.trace for noise in noises], TRACE)
    is_mean([noise.grad_sq_norm for noise in noises], float(MEAN.square().sum()))


def test_with_weights_the_trace_is_that_of_an_example():
    generator = torch.Generator().manual_seed(3)
    num_examples = 20 * 500
    data = MEAN + torch.randn(num_examples, DIM, generator=generator)
    engine, found = linear_engine(data, batch_size=20, micro_batch_size=4)
    for update in engine:
        for (x,) in update:
            update.backward(engine.model(x).squeeze(1), weights=torch.full((len(x),), 7.0))
    is_mean([each.noise.trace for each in found], TRACE)
    is_mean([each.noise.grad_sq_norm for each in found], float(MEAN.square().sum()))


def test_with_unequal_weights_the_trace_is_that_of_the_ratio():
    """Gradient of an example: its weight times ``x``; of the step: ``sum w x / sum w``, whose variance is ``E[w^2] / E[w]^2 / B``."""
    generator = torch.Generator().manual_seed(4)
    num_examples = 64 * 800
    weights = torch.randint(1, 8, (num_examples,), generator=generator).float()
    data = torch.cat([MEAN + torch.randn(num_examples, DIM, generator=generator), weights[:, None]], dim=1)
    model = nn.Linear(DIM, 1, bias=False)
    engine = BatchEngine(
        model,
        torch.optim.SGD(model.parameters(), lr=1e-3),
        TensorDataset(data),
        policy=NoiseScale(cooldown=10**9),
        noise_every=1,
        batch_size=64,
        micro_batch_size=16,
    )
    found = []
    end = engine.gatherer.end
    engine.gatherer.end = lambda **given: found.append(end(**given)) or found[-1]
    for update in engine:
        for (x,) in update:
            update.backward(model(x[:, :DIM]).squeeze(1), weights=x[:, DIM])
    spread = float((weights**2).mean() / weights.mean() ** 2)
    # A ratio of sums is unbiased to first order in the number of examples of a part; 16 leave a few parts in a hundred.
    mean = sum(each.noise.trace for each in found) / len(found)
    assert mean == pytest.approx(TRACE * spread, rel=0.03)


def test_the_statistics_are_those_of_a_hand_written_accumulation():
    model, reference = make_model(), make_model()
    engine = BatchEngine(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        make_data(48),
        policy=NoiseScale(cooldown=10**9),
        noise_every=1,
        batch_size=48,
        micro_batch_size=12,
        shuffle=False,
    )
    found = []
    end = engine.gatherer.end
    engine.gatherer.end = lambda **given: found.append(end(**given)) or found[-1]
    run(engine, 1)
    norms = MicroBatchNorms(list(reference.parameters()))
    accumulate_gradient(
        reference, loss, make_data(48).tensors, micro_batch_size=12, after_micro_batch=norms.after_micro_batch
    )
    wanted = norms.step_noise()
    assert found[0].noise.trace == pytest.approx(wanted.trace, rel=1e-5)
    assert found[0].noise.grad_sq_norm == pytest.approx(wanted.grad_sq_norm, rel=1e-4)


def test_a_step_without_accumulation_is_split_in_two_only_when_it_is_measured():
    engine, found = linear_engine(torch.randn(80, DIM), batch_size=8, noise_every=4)
    parts = []
    for update in engine:
        parts.append(update.num_micro_batches)
        for (x,) in update:
            update.backward(engine.model(x).squeeze(1))
    assert parts == [1, 1, 1, 2, 1, 1, 1, 2, 1, 1]
    assert len(found) == 2


def test_a_policy_that_needs_no_noise_measures_none():
    engine, found = linear_engine(torch.randn(80, DIM), batch_size=8, micro_batch_size=2, policy=None)
    for update in engine:
        for (x,) in update:
            update.backward(engine.model(x).squeeze(1))
    assert not found
    assert engine.noise_scale is None
