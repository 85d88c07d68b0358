"""The interval of a skewed mean covers where Student's does not, and is Student's where there is no skewness."""

import numpy as np
import pytest

from batchwright.core.statistics import mean_interval
from batchwright.measure.curvature.skewed_mean import skewed_mean_interval


def test_without_skewness_it_is_students():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found, plain = skewed_mean_interval(values), mean_interval(values)
    assert (found.low, found.value, found.high) == pytest.approx((plain.low, plain.value, plain.high))


def test_covers_the_mean_of_skewed_values_better_than_students():
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(2000, 20))
    covered, plain = (
        np.mean([found.low <= 1 <= found.high for found in map(make, draws.tolist())])
        for make in (skewed_mean_interval, mean_interval)
    )
    assert 0.93 <= covered <= 0.965
    assert covered > plain + 0.01


@pytest.mark.parametrize("values", [[0.0] * 9 + [1.0], [1.0] * 5, [-3.0, 0.0, 0.0, 0.0]])
def test_it_holds_its_value(values):
    found = skewed_mean_interval(values)
    assert found.low <= found.value <= found.high


def test_one_value_has_no_bounds():
    found = skewed_mean_interval([2.0])
    assert (found.low, found.high) == (-np.inf, np.inf)
