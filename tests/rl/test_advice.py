"""Advice for other learners: the size at which the joint choice has its optimum, and honest about noise."""

import math

import pytest
import torch

from batchwright.core.errors import InputError, NotEnoughEvidenceError
from batchwright.rl import batch_size_advice, optimal_step
from batchwright.rl.error_bounds import bernstein


def grads(number: int, mean: float, seed: int = 0, size: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, size, generator=generator, dtype=torch.float64) + mean


def test_the_norm_rule_is_four_times_the_noise_scale():
    """Mean (2, 2, 2), covariance I: trace 3 over squared norm 12, so a quarter, and one trajectory is enough."""
    found = batch_size_advice(grads(20_000, 0.1), max_batch_size=10**6)
    # trace 3, squared norm 0.03: noise scale 100, batch 400.
    assert found.noise_scale.low <= 100 <= found.noise_scale.high
    assert found.noise_scale.high < 130
    assert found.batch_size == math.ceil(4 * found.trace / found.grad_sq_norm)
    joint = optimal_step(
        torch.tensor([math.sqrt(found.grad_sq_norm)], dtype=torch.float64),
        d=math.sqrt(found.trace),
        smoothness=1.0,
        variant="norm",
    )
    assert found.batch_size == joint.batch_size


def test_the_noise_scale_is_covered_by_its_interval():
    inside = 0
    for seed in range(200):
        found = batch_size_advice(grads(500, 0.3, seed), max_batch_size=10**6).noise_scale
        inside += found.low <= 3 / 0.27 <= found.high
    assert inside >= 180  # 190 expected, standard deviation 3


def test_the_bernstein_rule_is_the_joint_optimum_of_its_coordinate():
    rows = grads(5000, 0.0)
    rows[:, 1] += 0.5
    found = batch_size_advice(rows, rule="bernstein", delta=0.1, max_batch_size=10**6)
    spread = float(rows[:, 1].max() - rows[:, 1].min())
    bound = bernstein(float(rows[:, 1].var()), spread, 0.1, num_coordinates=3)
    joint = optimal_step(rows.mean(0), d=bound.d, f=bound.f, smoothness=1.0)
    assert joint.coordinate == 1
    assert found.batch_size == joint.batch_size
    assert found.step_fraction == pytest.approx(1 - bound.error(5000) / float(rows[:, 1].mean()))


@pytest.mark.parametrize("rule", ["norm", "bernstein"])
def test_noise_alone_is_not_resolved(rule):
    found = batch_size_advice(grads(64, 0.0, seed=3), rule=rule)
    assert not found.resolved
    assert found.batch_size == 256
    assert "do not resolve" in found.reason


def test_the_scale_of_the_gradients_does_not_matter():
    one, ten = (batch_size_advice(factor * grads(500, 0.3)) for factor in (1.0, 10.0))
    assert one.batch_size == ten.batch_size
    assert one.step_fraction == pytest.approx(ten.step_fraction, rel=1e-12)


def test_limits_and_bad_input():
    assert batch_size_advice(grads(500, 3.0), min_batch_size=32).batch_size == 32
    assert batch_size_advice(grads(500, 0.3), max_batch_size=10).batch_size == 10
    with pytest.raises(InputError, match="per_trajectory_grads must hold at least 8 rows, got 3"):
        batch_size_advice(grads(3, 0.0))
    with pytest.raises(InputError, match="per_trajectory_grads must be finite"):
        batch_size_advice(torch.full((9, 2), math.nan))
    with pytest.raises(InputError, match="rule must be one of"):
        batch_size_advice(grads(9, 0.0), rule="adam")
    with pytest.raises(NotEnoughEvidenceError, match="all zero"):
        batch_size_advice(torch.zeros(9, 2))
