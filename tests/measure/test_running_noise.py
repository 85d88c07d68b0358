"""The running noise scale is unbiased step by step, its interval covers, and its state resumes exactly."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.core.objectives import accumulate_gradient
from batchwright.measure.running_noise import MicroBatchNorms, RunningNoiseScale, StepNoise

DIM = 8


class Vector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full((DIM,), 0.5))


def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return 0.5 * model.theta.square().sum() + batch @ model.theta


def measured_step(model: nn.Module, batch: torch.Tensor, micro_batch_size: int) -> StepNoise | None:
    norms = MicroBatchNorms(list(model.parameters()))
    model.zero_grad()
    accumulate_gradient(
        model, loss, batch, micro_batch_size=micro_batch_size, after_micro_batch=norms.after_micro_batch
    )
    return norms.step_noise()


@pytest.mark.parametrize("micro_batch_size", [4, 6, 7, 10])
def test_step_noise_is_unbiased_for_any_split(micro_batch_size):
    model, generator = Vector(), torch.Generator().manual_seed(0)
    found = [measured_step(model, torch.randn(20, DIM, generator=generator), micro_batch_size) for _ in range(2000)]
    for name, expected in (("trace", DIM), ("grad_sq_norm", DIM * 0.25)):
        values = np.array([getattr(each, name) for each in found])
        assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


def test_a_single_micro_batch_says_nothing():
    assert measured_step(Vector(), torch.randn(20, DIM), 20) is None


def test_a_copy_of_an_earlier_step_is_written_over_and_tells_the_same():
    model, generator = Vector(), torch.Generator().manual_seed(0)
    parameters, copy = list(model.parameters()), None
    for _ in range(3):
        batch = torch.randn(20, DIM, generator=generator)
        kept = MicroBatchNorms(parameters, copy=copy)
        model.zero_grad()
        accumulate_gradient(model, loss, batch, micro_batch_size=7, after_micro_batch=kept.after_micro_batch)
        assert kept.step_noise() == measured_step(model, batch, 7)
        assert copy is None or kept.copy is copy
        copy = kept.copy
    # In float64 it is another kind, so the copy is of no use.
    model.double()
    kept = MicroBatchNorms(parameters, copy=copy)
    model.zero_grad()
    accumulate_gradient(model, loss, batch.double(), micro_batch_size=7, after_micro_batch=kept.after_micro_batch)
    assert kept.copy is not copy
    assert kept.step_noise() == measured_step(model, batch.double(), 7)


def test_step_noise_is_that_of_the_gradients_of_the_parts():
    torch.manual_seed(0)
    model, batch, sizes = nn.Sequential(nn.Linear(90, 60), nn.Tanh(), nn.Linear(60, 1)), torch.randn(20, 90), [7, 7, 6]
    norms = MicroBatchNorms(list(model.parameters()))

    def values(network: nn.Module, part: torch.Tensor) -> torch.Tensor:
        return network(part).squeeze(1).square()

    accumulate_gradient(model, values, batch, sizes=sizes, after_micro_batch=norms.after_micro_batch)
    found = norms.step_noise()
    rows = [torch.autograd.grad(values(model, part).mean(), list(model.parameters())) for part in batch.split(sizes)]
    parts = torch.stack([torch.cat([each.flatten() for each in row]) for row in rows]).double()
    counts = torch.tensor(sizes).double()
    mean = (counts[:, None] * parts).sum(dim=0) / 20
    trace = float((counts * (parts - mean).square().sum(dim=1)).sum() / 2)
    assert found.trace == pytest.approx(trace, rel=1e-5)
    assert found.grad_sq_norm == pytest.approx(float(mean.square().sum()) - trace / 20, rel=1e-5)


def test_interval_of_a_long_average_covers():
    rng, covered, repeats = np.random.default_rng(0), 0, 300
    for _ in range(repeats):
        running = RunningNoiseScale(0.97)
        for trace, norm in zip(rng.normal(100, 20, 150), rng.normal(2, 1, 150), strict=True):
            running = running.update(StepNoise(trace=trace, grad_sq_norm=norm))
        interval = running.interval()
        covered += interval.low <= 50 <= interval.high
    assert 0.92 <= covered / repeats <= 0.98


def test_averages_are_debiased_and_the_early_interval_is_withheld():
    running = RunningNoiseScale(0.9)
    assert math.isnan(running.trace)
    for _ in range(2):
        running = running.update(StepNoise(trace=5.0, grad_sq_norm=0.1))
    assert running.trace == pytest.approx(5.0)
    assert running.grad_sq_norm == pytest.approx(0.1)
    assert running.interval() is None
    for _ in range(200):
        running = running.update(StepNoise(trace=5.0, grad_sq_norm=0.1))
    assert running.num_effective == pytest.approx(1.9 / 0.1, rel=1e-6)
    assert running.interval().value == pytest.approx(50)


def test_unresolved_is_a_state_of_its_own():
    rng, running = np.random.default_rng(1), RunningNoiseScale(0.95)
    for noise in rng.normal(0, 1, 100):
        running = running.update(StepNoise(trace=10.0, grad_sq_norm=noise))
    assert running.interval().high == math.inf


def test_state_resumes_exactly_through_json():
    running = RunningNoiseScale(0.95)
    for value in np.random.default_rng(2).normal(1, 1, 37):
        running = running.update(StepNoise(trace=3 + value, grad_sq_norm=value))
    assert RunningNoiseScale.from_state(json.loads(json.dumps(running.to_state()))) == running


def test_status_names_what_is_known():
    running = RunningNoiseScale(0.95)
    assert running.status == "no interval yet"
    for noise in np.random.default_rng(1).normal(0, 1, 100):
        running = running.update(StepNoise(trace=10.0, grad_sq_norm=noise))
    assert running.status == "not resolved yet"
    assert not running.resolved
    for noise in np.random.default_rng(1).normal(5, 1, 200):
        running = running.update(StepNoise(trace=10.0, grad_sq_norm=noise))
    assert running.status == "resolved"
    assert running.resolved


def test_measuring_leaves_the_gradient_as_it_was():
    batch, model, other = torch.randn(20, DIM, generator=torch.Generator().manual_seed(0)), Vector(), Vector()
    measured_step(model, batch, 3)
    accumulate_gradient(other, loss, batch, micro_batch_size=3)
    assert torch.equal(model.theta.grad, other.theta.grad)
