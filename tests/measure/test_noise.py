"""The noise scale meets closed forms, its interval covers, and it leaves nothing behind."""

import math

import pytest
import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError, NotEnoughEvidenceError
from batchwright.core.statistics import normal_quantile
from batchwright.measure.noise import NoiseScale, average_over_points, batches_to_resolve, noise_scale

DIM = 16
CURVATURE = torch.linspace(0.2, 1.0, DIM)
VARIANCE = torch.linspace(0.5, 2.0, DIM)


class Quadratic(nn.Module):
    """Per-example loss with gradient ``CURVATURE * theta + x``: trace and gradient are known."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full((DIM,), scale))


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    theta = model.theta
    return 0.5 * (CURVATURE * theta.square()).sum() + batch @ theta


def draw(sizes: list[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, DIM, generator=generator) * VARIANCE.sqrt() for size in sizes]


def truth(model: nn.Module) -> tuple[float, float]:
    return float(VARIANCE.sum()), float((CURVATURE * model.theta).square().sum().detach())


@pytest.mark.parametrize("num_micro_batches", [1, 2, 3])
def test_trace_and_squared_norm_are_unbiased_for_unequal_sizes(num_micro_batches):
    model = Quadratic(0.5)
    found = [
        noise_scale(model, loss, draw([5, 9, 16, 7], seed), num_micro_batches=num_micro_batches) for seed in range(400)
    ]
    for name, expected in zip(("trace", "grad_sq_norm"), truth(model), strict=True):
        values = torch.tensor([getattr(each, name) for each in found], dtype=torch.float64)
        assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize(("scale", "num_batches"), [(1.0, 25), (0.3, 100)])
def test_interval_covers_at_its_nominal_level(scale, num_batches):
    model, repeats = Quadratic(scale), 300
    trace, grad_sq_norm = truth(model)
    found = [noise_scale(model, loss, draw([32] * num_batches, 1000 + seed)) for seed in range(repeats)]
    covered = sum(each.low <= trace / grad_sq_norm <= each.high for each in found) / repeats
    assert 0.92 <= covered <= 0.98


def test_blocks_are_joined_without_changing_the_estimate():
    """More batches than blocks: the plain formula over all micro-batches is the oracle."""
    model, batches = Quadratic(0.7), draw([6] * 333, 3)
    found = noise_scale(model, loss, batches, num_micro_batches=2)
    micro = (
        torch.stack([part.mean(0) for batch in batches for part in batch.split(3)]) + (CURVATURE * model.theta).detach()
    )
    trace = 3 * micro.var(dim=0, correction=1).sum()
    assert found.trace == pytest.approx(float(trace), rel=1e-4)
    assert found.grad_sq_norm == pytest.approx(float(micro.mean(0).square().sum() - trace / 1998), rel=1e-3)
    assert found.num_examples == 1998
    assert found.num_batches == 333


def test_unresolved_gradient_is_said_and_not_numbered():
    model = Quadratic(0.01)
    found = noise_scale(model, loss, draw([8] * 12, 0))
    assert not found.resolved
    assert found.high == math.inf
    assert found.more_batches > 0
    with pytest.raises(NotEnoughEvidenceError, match=r"after 12 batches; measure about \d+ more"):
        found.require()


def test_the_batches_asked_for_do_resolve_it():
    model = Quadratic(0.3)
    first = noise_scale(model, loss, draw([16] * 20, 5))
    needed = batches_to_resolve(first.grad_sq_norm, 0.05, 20, 19, 0.95)
    assert noise_scale(model, loss, draw([16] * (20 + max(needed, 200)), 6)).resolved


def test_measurement_leaves_no_trace_also_when_it_raises():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    grad = torch.ones(4, 4)
    model[0].weight.grad = grad
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()

    def broken(model: nn.Module, batch: Tensor) -> Tensor:
        if batch[0, 0] > 100:
            raise RuntimeError("broken")
        return model(batch).squeeze(1)

    good = [torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    noise_scale(model, broken, good)
    with pytest.raises(RuntimeError, match="broken"):
        noise_scale(model, broken, [*good, torch.full((8, 4), 101.0)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.grad is grad
    assert torch.equal(grad, torch.ones(4, 4))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_arguments_are_named():
    model = Quadratic(1.0)
    with pytest.raises(InputError, match="method must be one of"):
        noise_scale(model, loss, draw([8, 8], 0), method="magic")
    with pytest.raises(InputError, match="at least 2 batches of 2 micro-batches or 3 of one, got 1"):
        noise_scale(model, loss, draw([8], 0))
    with pytest.raises(InputError, match="at least num_micro_batches examples, got 1 for 2"):
        noise_scale(model, loss, draw([8, 1], 0))
    with pytest.raises(InputError, match="level must be"):
        noise_scale(model, loss, draw([8, 8], 0), level=1.5)


def point(inverse: float, error: float) -> NoiseScale:
    return NoiseScale(
        value=1 / inverse if inverse > 0 else math.inf,
        low=0.0,
        high=math.inf,
        trace=1.0,
        grad_sq_norm=inverse,
        num_examples=100,
        num_batches=10,
        more_batches=0,
        level=0.95,
        inverse_standard_error=error,
    )


def test_average_over_points_is_the_inverse_of_the_mean_inverse():
    found = average_over_points([point(0.01, 0.001), point(0.03, 0.001)])
    assert found.value == pytest.approx(50)
    half = 2.02 * 0.001 / 2**0.5
    assert found.low == pytest.approx(1 / (0.02 + half), rel=0.01)
    assert found.high == pytest.approx(1 / (0.02 - half), rel=0.01)
    assert half == pytest.approx(normal_quantile(0.95) * 0.001 / 2**0.5, rel=0.05)


def test_average_with_an_unresolved_mean_is_unbounded():
    found = average_over_points([point(0.01, 0.05), point(-0.03, 0.05)])
    assert found.value == math.inf
    assert found.high == math.inf
    assert found.low > 0
    with pytest.raises(InputError, match="at least one"):
        average_over_points([])


def test_the_batches_said_to_halve_the_interval_halve_it():
    """Gradients are the inputs themselves, so nothing but the number of batches changes between the two measurements."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(20, 1, bias=False)

    def measure(num_batches: int) -> NoiseScale:
        batches = [torch.randn(16, 20, generator=generator) + 0.2 for _ in range(num_batches)]
        return noise_scale(model, lambda model, batch: model(batch).squeeze(1), batches)

    ratios = []
    for _ in range(24):
        found = measure(40)
        again = measure(found.num_batches + found.batches_to_halve)
        ratios.append((again.high - again.low) / (found.high - found.low))
    logs = torch.tensor(ratios).log2()
    assert abs(logs.mean() + 1) < 4 * logs.std() / len(logs) ** 0.5
    assert logs.std() < 0.5


def test_batches_to_halve_of_a_narrow_a_wide_and_an_open_interval():
    def made(low: float, high: float, more: int = 0) -> NoiseScale:
        return NoiseScale(
            value=100.0, low=low, high=high, trace=1.0, grad_sq_norm=0.01, num_examples=640, num_batches=40,
            more_batches=more, level=0.95, inverse_standard_error=0.001,
        )  # fmt: skip

    assert made(99.9, 100.1).batches_to_halve == 120  # four times as many in all
    assert made(100.0, 100.0).batches_to_halve == 0
    assert made(50.0, math.inf, more=37).batches_to_halve == 37
    wide = made(50.0, 1000.0)
    r, h = (1 / 50 + 1 / 1000) / 2, (1 / 50 - 1 / 1000) / 2
    halved = h * (40 / (40 + wide.batches_to_halve)) ** 0.5
    assert 1 / (r - halved) - 1 / (r + halved) == pytest.approx(475.0, rel=0.02)


def test_a_noise_scale_is_made_of_plain_numbers():
    found = noise_scale(nn.Linear(2, 1), lambda model, batch: model(batch).squeeze(1).square(), [torch.randn(8, 2)] * 4)
    assert {type(each) for each in (found.value, found.low, found.high)} == {float}
