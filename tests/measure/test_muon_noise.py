"""The nuclear noise scale inside Muon's steps against known noise and against the measurement at one point."""

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.dual_norms import dual_noise_scale
from batchwright.measure.muon_noise import MuonNoise
from batchwright.optim import Muon, param_groups

ROWS, COLUMNS, BATCH = 6, 40, 64


def run(steps, *, every=1, decay=0.99, momentum=0.9, noise=0.5, seed=0, state=None):
    """Gradients of a constant mean and Gaussian noise, in micro-batches of 24 and 40 examples, lr 0."""
    parameter = nn.Parameter(torch.zeros(ROWS, COLUMNS))
    optimizer = Muon([parameter], lr=0.0, momentum=momentum, nuclear_norms=True, route="exact")
    gauge = MuonNoise(optimizer, every=every, decay=decay)
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(ROWS, COLUMNS, generator=generator) * 0.1
    for _ in range(steps):
        parameter.grad = None
        for size in (24, 40):
            sample = mean + noise * torch.randn(size, ROWS, COLUMNS, generator=generator)
            part = sample.sum(dim=0) / BATCH
            parameter.grad = part if parameter.grad is None else parameter.grad + part
            gauge.after_micro_batch(size)
        optimizer.step()
        gauge.after_step()
    return gauge.noise_scale(), mean


def test_the_norms_are_those_of_known_noise():
    found, mean = run(400)
    # Noise of covariance 0.25 I an entry: E[N N^T] = 0.25 n I, so the norm is m sqrt(0.25 n).
    assert found.noise_norm == pytest.approx(ROWS * 0.5 * COLUMNS**0.5, rel=0.03)
    true = float(torch.linalg.svdvals(mean).sum())
    assert true < found.grad_norm < true + found.noise_norm / found.num_examples**0.5
    scale = (ROWS * 0.5 * COLUMNS**0.5 / true) ** 2
    assert found.value * 0.9 < scale < found.high * 1.1
    assert found.num_examples == pytest.approx(64 * 19)


def test_pure_noise_has_no_upper_end_and_its_absence_is_zero():
    gauge, _ = run(50, noise=1.0, momentum=0.0)
    assert gauge.high > 10 * gauge.value or gauge.high == float("inf")
    quiet, _ = run(5, noise=0.0)
    assert quiet.value < 1e-6


def test_it_agrees_with_the_measurement_at_one_point():
    torch.manual_seed(0)
    model = nn.Linear(12, 8, bias=False)
    inputs, teacher = torch.randn(4000, 12), torch.randn(12, 8)

    def loss(model, batch):
        return (model(batch) - batch @ teacher).square().sum(dim=1)

    generator = torch.Generator().manual_seed(1)
    batches = [inputs[torch.randint(4000, (64,), generator=generator)] for _ in range(300)]
    point = dual_noise_scale(model, loss, batches, "nuclear")
    optimizer = Muon(param_groups(model), lr=0.0, momentum=0.95, nuclear_norms=True)
    gauge = MuonNoise(optimizer, every=2, decay=0.99)
    for batch in batches:
        optimizer.zero_grad()
        for part in batch.split(32):
            (loss(model, part).sum() / 64).backward()
            gauge.after_micro_batch(len(part))
        optimizer.step()
        gauge.after_step()
    found = gauge.noise_scale()
    assert found.noise_norm == pytest.approx(point.noise_norm, rel=0.1)
    assert found.value * 0.75 < point.value < found.high * 1.25


def test_most_steps_are_not_measured_and_a_resumed_run_goes_on_exactly():
    torch.manual_seed(0)
    model = nn.Linear(5, 4, bias=False)
    optimizer = Muon(model.parameters(), lr=0.01, nuclear_norms=True)
    gauges = [MuonNoise(optimizer, every=3)]
    assert gauges[0].noise_scale() is None
    for step in range(8):
        if step == 5:
            gauges.append(MuonNoise(optimizer, every=3))
            gauges[1].load_state_dict(gauges[0].state_dict())
        optimizer.zero_grad()
        for _ in range(2):
            (model(torch.randn(4, 5)).square().sum() / 8).backward()
            for gauge in gauges:
                gauge.after_micro_batch(4)
        optimizer.step()
        for gauge in gauges:
            gauge.after_step()
    assert gauges[0].noise_scale() == gauges[1].noise_scale()
    assert gauges[0].state_dict()["weight"] == pytest.approx(1 + 0.8 + 0.64)  # steps 0, 3 and 6


def test_a_muon_without_nuclear_norms_is_refused():
    with pytest.raises(InputError, match="make it with nuclear_norms=True"):
        MuonNoise(Muon([nn.Parameter(torch.ones(3, 3))]))


def test_steps_are_the_same_to_the_last_bit_beside_it():
    def trained(watched: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
        optimizer = Muon(param_groups(model), lr=0.01, nuclear_norms=True)
        gauge = MuonNoise(optimizer, every=2) if watched else None
        for _ in range(6):
            optimizer.zero_grad()
            for _ in range(2):
                (model(torch.randn(4, 5)).square().sum() / 8).backward()
                if gauge is not None:
                    gauge.after_micro_batch(4)
            optimizer.step()
            if gauge is not None:
                gauge.after_step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(trained(True), trained(False))
