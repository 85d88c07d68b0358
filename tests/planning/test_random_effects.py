"""Random effects: the closed forms where there are any, and intervals that cover in simulations of the model."""

import math

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.core.statistics import student_quantile
from batchwright.planning.random_effects import random_effects


def test_without_errors_the_intervals_are_students():
    values = [0.3, 1.7, -0.4, 2.2]
    found, mean, scatter = random_effects(values, [0.0] * 4), np.mean(values), np.std(values, ddof=1)
    quantile = student_quantile(0.95, 3)
    assert found.mean == pytest.approx(mean, abs=1e-6)
    assert found.mean_interval() == pytest.approx(
        (mean - quantile * scatter / 2, mean + quantile * scatter / 2), rel=1e-3
    )
    half = quantile * scatter * math.sqrt(1.25)
    assert found.predictive_interval() == pytest.approx((mean - half, mean + half), rel=1e-3)


def test_a_large_error_common_to_all_leaves_no_room_for_scatter():
    found = random_effects([0.1, -0.1, 0.05, 0.0, -0.05] * 4, [1.0] * 20)
    assert found.scatter < 0.4
    low, high = found.mean_interval()
    assert (high - low) / 2 == pytest.approx(1.96 / math.sqrt(20), rel=0.2)


def test_a_task_with_a_huge_error_hardly_counts():
    values, sure = [0.0, 0.1, -0.1], [0.01] * 3
    alone, joined = random_effects(values, sure), random_effects([*values, 9.0], [*sure, 1e6])
    assert joined.mean == pytest.approx(alone.mean, abs=1e-3)
    assert joined.predictive_interval() == pytest.approx(alone.predictive_interval(), rel=0.02)
    assert joined.weights[3] < 1e-6


@pytest.mark.parametrize("scatter", [0.3, 0.5, 1.5])
def test_predictive_interval_covers_the_next_task(scatter):
    """Seven tasks with unlike errors, 400 simulated tables; nominal 95 %."""
    rng, covered, repeats = np.random.default_rng(0), 0, 400
    for _ in range(repeats):
        errors = rng.uniform(0.1, 0.6, 7)
        values = 1.0 + scatter * rng.standard_normal(7) + errors * rng.standard_normal(7)
        found = random_effects(list(values), list(errors**2))
        new = 1.0 + scatter * rng.standard_normal()
        low, high = found.predictive_interval(0.95)
        covered += low <= new <= high
    # One standard error is 1.1 %; where the errors are as large as the scatter the reference prior errs on the wide side.
    assert 0.915 <= covered / repeats <= 0.995


def test_bad_lengths_are_named():
    with pytest.raises(InputError, match="values and variances must be equally many, at least 2, got 2 and 1"):
        random_effects([1.0, 2.0], [1.0])
