"""The laws of the distance from the beginning, on walks whose law is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.diffusion import diffusion
from batchwright.measure.distance_log import DistanceLog

STEPS = sorted({round(10 ** (k / 12)) for k in range(43)})


def free_walk(rng: np.random.Generator, dim: int) -> list[float]:
    """Distances of a Gaussian random walk at `STEPS`: sqrt(dim t) on average."""
    place, before, found = np.zeros(dim), 0, []
    for step in STEPS:
        place = place + rng.normal(size=dim) * math.sqrt(step - before)
        before = step
        found.append(float(np.linalg.norm(place)))
    return found


def test_a_free_walk_is_sqrt_t_and_its_intervals_cover():
    rng = np.random.default_rng(0)
    found = [diffusion(STEPS, free_walk(rng, 1000)) for _ in range(60)]
    # 95 % intervals of 60 draws: fewer than 50 inside has a chance of one in 10,000.
    assert sum(each.exponent.low <= 0.5 <= each.exponent.high for each in found) >= 50
    power = [each.laws["power"].exponent for each in found]
    assert sum(each.low <= 0.5 <= each.high for each in power) >= 50
    slope = [each.laws["square-root"].slope for each in found]
    assert sum(each.low <= math.sqrt(1000) <= each.high for each in slope) >= 50
    assert sum("log" not in each.compatible for each in found) >= 50
    assert found[0].told.startswith("sqrt t and not log t")
    assert min(each.laws["square-root"].r_squared for each in found) > 0.98


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_log_t_with_correlated_scatter_is_found_with_its_slope(correlation):
    rng = np.random.default_rng(1)
    exponents, slopes, excluded = [], [], 0
    for _ in range(60):
        scatter = np.zeros(len(STEPS))
        for i in range(1, len(STEPS)):
            scatter[i] = correlation * scatter[i - 1] + 0.03 * rng.normal()
        found = diffusion(STEPS, [1 + 0.5 * math.log(t) + e for t, e in zip(STEPS, scatter, strict=True)])
        exponents.append(found.exponent)
        slopes.append(found.laws["log"].slope)
        excluded += "square-root" not in found.compatible
    assert sum(each.low <= 0.0 <= each.high for each in exponents) >= 50
    assert sum(each.low <= 0.5 <= each.high for each in slopes) >= 50
    assert excluded >= 50


def test_exact_laws_are_recovered_to_the_grid():
    root = diffusion(STEPS, [2 + 3 * math.sqrt(t) for t in STEPS])
    assert root.laws["square-root"].slope.value == pytest.approx(3.0)
    assert root.laws["square-root"].offset == pytest.approx(2.0)
    assert root.laws["square-root"].at([4.0]) == pytest.approx([8.0])
    assert root.exponent.value == pytest.approx(0.5)
    power = diffusion(STEPS, [0.7 * t**0.3 for t in STEPS]).laws["power"]
    assert (power.exponent.value, power.slope.value) == (pytest.approx(0.3), pytest.approx(0.7))
    squared = diffusion(STEPS[2:], [0.5 * math.log(t) ** 2 for t in STEPS[2:]])
    assert squared.laws["log-power"].exponent.value == pytest.approx(2.0)
    assert squared.alpha.value == pytest.approx(1.0)  # Sinai's potential, a Brownian path


def test_gradient_flow_down_an_exponential_is_nearer_to_log_t():
    """``w' = exp(-w)`` has the solution ``log(1 + t)``: the law of separable data, which is log t but for its beginning."""
    found = diffusion(STEPS, [math.log1p(t) for t in STEPS])
    assert found.laws["log"].r_squared > 0.995
    assert found.laws["log"].r_squared > found.laws["square-root"].r_squared + 0.1
    assert abs(found.exponent.value) < 0.1
    assert "nearer to log t" in found.told


def test_few_noisy_points_cannot_tell_the_laws_apart():
    rng = np.random.default_rng(3)
    steps = [10 * 1.3**k for k in range(10)]
    found = diffusion(steps, [1 + 0.2 * math.log(t) + 0.15 * rng.normal() for t in steps])
    assert found.compatible == ("log", "square-root")
    assert "cannot be told apart" in found.told


@pytest.mark.parametrize(
    ("steps", "distances", "message"),
    [
        ([1, 2, 3], [1.0, 2.0, 3.0], "8 or more pairs"),
        ([100 + k for k in range(10)], [1.0 + k for k in range(10)], "factor of at least 10"),
        (STEPS, [math.nan for _ in STEPS], "all numbers be finite"),
        (STEPS, [1.0 for _ in STEPS], "distances must change"),
        (STEPS[::-1], [1.0 + t for t in STEPS], "must rise"),
    ],
)
def test_what_cannot_be_fitted_is_refused(steps, distances, message):
    with pytest.raises(InputError, match=message):
        diffusion(steps, distances)


def test_distances_are_of_all_parameters_at_log_spaced_steps():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    parameters = list(model.parameters())
    size = sum(each.numel() for each in parameters)
    log = DistanceLog(parameters)
    for step in range(1, 201):
        with torch.no_grad():
            for each in parameters:
                each.add_(0.5)
        log.after_step(step)
    assert [point.step for point in log.points][:12] == [*range(1, 11), 11, 12]
    assert len(log.points) < 50
    for point in log.points:
        assert point.distance == pytest.approx(0.5 * point.step * math.sqrt(size), rel=1e-5)


def test_a_distance_log_goes_on_from_its_state():
    weight = nn.Parameter(torch.zeros(5))
    first = DistanceLog([weight])
    start = [weight.detach().clone()]
    for step in range(1, 31):
        with torch.no_grad():
            weight.add_(1.0)
        first.after_step(step)
        if step == 20:
            second = DistanceLog([weight], start=start)
            second.load_state_dict(first.state_dict())
        elif step > 20:
            second.after_step(step)
    assert second.points == first.points
    assert second.state_dict() == first.state_dict()
