"""Averages and intervals meet closed forms, and the intervals cover at their nominal level."""

import math

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.core.statistics import (
    DebiasedAverage,
    Interval,
    bootstrap_interval,
    jackknife_covariance,
    mean_interval,
    normal_quantile,
    ratio_interval,
    student_quantile,
)

LEVEL = 0.95


def four_errors(num_draws: int) -> float:
    """Four standard errors of a coverage that is counted over so many draws."""
    return 4 * math.sqrt(LEVEL * (1 - LEVEL) / num_draws)


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def is_ordered(interval: Interval) -> bool:
    return interval.low <= interval.value <= interval.high


# Interval and quantiles


@pytest.mark.parametrize(("low", "high"), [(2.0, 3.0), (-1.0, 0.5), (math.nan, 2.0), (math.inf, -math.inf)])
def test_an_interval_must_hold_its_value(low, high):
    with pytest.raises(InputError, match="an interval must hold its value, got 1 outside"):
        Interval(value=1.0, low=low, high=high)


def test_an_interval_may_be_unbounded_or_nan():
    assert is_ordered(Interval(value=math.inf, low=1.0, high=math.inf))
    assert is_ordered(Interval(value=0.0, low=-math.inf, high=math.inf))
    assert math.isnan(Interval(value=math.nan, low=math.nan, high=math.nan).value)


def test_scaled_multiplies_every_end_and_keeps_the_level():
    found = Interval(value=2.0, low=1.0, high=math.inf, level=0.8).scaled(3.0)
    assert found == Interval(value=6.0, low=3.0, high=math.inf, level=0.8)


@pytest.mark.parametrize(("level", "expected"), [(0.95, 1.959964), (0.6826895, 1.0), (0.99, 2.575829)])
def test_normal_quantile_is_the_tabulated_one(level, expected):
    assert normal_quantile(level) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("dof", "expected"), [(1.0, 12.7062), (2.0, 4.3027), (10.0, 2.2281), (120.0, 1.9799), (1e9, 1.959964)]
)
def test_student_quantile_is_the_tabulated_one(dof, expected):
    assert student_quantile(LEVEL, dof) == pytest.approx(expected, abs=1e-4)


def test_student_quantile_grows_without_bound_as_the_degrees_vanish():
    quantiles = [student_quantile(LEVEL, dof) for dof in (4.0, 1.0, 0.5, 0.25)]
    assert quantiles == sorted(quantiles)
    assert quantiles[-1] > 1e3
    assert student_quantile(LEVEL, 0.0) == math.inf
    assert student_quantile(LEVEL, -1.0) == math.inf


# Interval of a mean


def test_mean_interval_is_the_closed_form():
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # t quantile at 2 degrees, standard deviation 1
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-5)


@pytest.mark.parametrize("num_values", [2, 5, 30])
def test_mean_interval_covers_at_its_level(num_values):
    draws = np.random.default_rng(num_values).normal(3.0, 2.0, size=(4000, num_values))
    coverage = np.mean([holds(mean_interval(draw), 3.0) for draw in draws])
    assert abs(coverage - LEVEL) < four_errors(len(draws))


def test_mean_interval_of_one_value_is_unbounded():
    assert mean_interval([5.0]) == Interval(value=5.0, low=-math.inf, high=math.inf)


def test_mean_interval_of_equal_values_has_no_width():
    assert mean_interval([2.0, 2.0, 2.0]) == Interval(value=2.0, low=2.0, high=2.0)


def test_mean_interval_of_nothing_raises():
    with pytest.raises(InputError, match="values must hold at least one number, got none"):
        mean_interval([])


# Debiased average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_debiased_average_is_the_closed_form(decay):
    values = np.random.default_rng(0).normal(size=40)
    average = DebiasedAverage(decay)
    for count in range(1, len(values) + 1):
        average = average.update(values[count - 1])
        weights = decay ** np.arange(count - 1, -1, -1.0)
        assert average.value == pytest.approx(np.average(values[:count], weights=weights), rel=1e-10, abs=1e-12)


def test_debiased_average_of_a_constant_is_that_constant_from_the_first_value_on():
    average = DebiasedAverage(0.99)
    for _ in range(5):
        average = average.update(7.0)
        assert average.value == pytest.approx(7.0)


def test_debiased_average_is_nan_before_the_first_value_and_is_not_changed_by_an_update():
    average = DebiasedAverage(0.5)
    average.update(1.0)
    assert math.isnan(average.value)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan, math.inf])
def test_debiased_average_refuses_a_decay_outside_its_range(decay):
    with pytest.raises(InputError, match="decay must be a finite number and at least 0 and below 1"):
        DebiasedAverage(decay)


# Jackknife


def leave_one_out_means(values: np.ndarray) -> np.ndarray:
    return (values.sum(axis=0) - values) / (len(values) - 1)


@pytest.mark.parametrize("num_values", [2, 3, 17])
def test_jackknife_covariance_of_the_mean_is_the_sample_covariance_over_n(num_values):
    values = np.random.default_rng(1).normal(size=(num_values, 3)) @ np.array([[1, 0.5, 0], [0, 2, 1], [0, 0, 0.1]])
    expected = np.cov(values.T) / num_values
    np.testing.assert_allclose(jackknife_covariance(leave_one_out_means(values)), expected, rtol=1e-10, atol=1e-14)


def test_jackknife_covariance_agrees_with_the_delta_method_of_a_ratio():
    values = np.random.default_rng(2).normal([4.0, 5.0], 0.3, size=(2000, 2))
    means = leave_one_out_means(values)
    slope = np.array([1 / values[:, 1].mean(), -values[:, 0].mean() / values[:, 1].mean() ** 2])
    expected = slope @ np.cov(values.T) @ slope / len(values)
    found = jackknife_covariance((means[:, 0] / means[:, 1])[:, None])
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(expected, rel=0.01)


def test_jackknife_covariance_of_one_block_raises_instead_of_claiming_certainty():
    with pytest.raises(InputError, match="leave_one_out must hold at least 2 blocks, got 1"):
        jackknife_covariance(np.ones((1, 2)))


# Bootstrap


def test_bootstrap_interval_covers_at_its_level():
    rng = np.random.default_rng(3)
    draws = rng.normal(1.0, 2.0, size=(200, 60))
    found = [bootstrap_interval(draw, np.mean, rng=rng, num_resamples=300) for draw in draws]
    assert abs(np.mean([holds(each, 1.0) for each in found]) - LEVEL) < four_errors(len(draws))
    assert all(is_ordered(each) for each in found)


def test_bootstrap_interval_of_a_mean_is_the_normal_one_for_many_values():
    values = np.random.default_rng(4).normal(size=2000)
    found = bootstrap_interval(values, np.mean, rng=np.random.default_rng(5), level=0.8)
    half = normal_quantile(0.8) * values.std() / math.sqrt(len(values))
    assert found.level == 0.8
    assert found.value == values.mean()
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.15 * half)


def test_bootstrap_resamples_rows_together():
    rows = np.random.default_rng(6).normal(size=(50, 1)) @ np.array([[1.0, 2.0]])
    found = bootstrap_interval(rows, lambda data: data[:, 1].sum() / data[:, 0].sum(), rng=np.random.default_rng(7))
    assert (found.low, found.value, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_bootstrap_holds_its_value_also_for_a_biased_statistic():
    values = np.random.default_rng(8).normal(size=30)
    assert is_ordered(bootstrap_interval(values, np.max, rng=np.random.default_rng(9)))


def test_bootstrap_draws_from_the_given_generator_alone():
    values = np.random.default_rng(10).normal(size=20)
    before = np.random.get_state()[1].copy()
    first, second = (bootstrap_interval(values, np.median, rng=np.random.default_rng(11)) for _ in range(2))
    assert first == second
    assert (np.random.get_state()[1] == before).all()


def test_bootstrap_of_one_row_raises():
    with pytest.raises(InputError, match="values must hold at least 2 rows to resample, got 1"):
        bootstrap_interval(np.ones(1), np.mean, rng=np.random.default_rng(0))


# Fieller's interval of a ratio

TRUE_RATIO = 3.0
COVARIANCE = np.array([[4.0, 1.2], [1.2, 1.0]])


def ratio_draws(denominator: float, num_draws: int, num_values: int, seed: int) -> list[Interval]:
    """Intervals from the mean and covariance of correlated Gaussian pairs whose means have the ratio `TRUE_RATIO`."""
    rng = np.random.default_rng(seed)
    pairs = rng.multivariate_normal(
        [TRUE_RATIO * denominator, denominator], COVARIANCE, size=(num_draws, num_values), method="cholesky"
    )
    means = pairs.mean(axis=1)
    return [
        ratio_interval(float(mean[0]), float(mean[1]), np.cov(draw.T) / num_values, dof=num_values - 1.0, level=LEVEL)
        for mean, draw in zip(means, pairs, strict=True)
    ]


@pytest.mark.parametrize("num_values", [3, 8, 40])
def test_ratio_interval_covers_exactly_where_the_denominator_is_resolved(num_values):
    found = ratio_draws(denominator=20.0, num_draws=4000, num_values=num_values, seed=num_values)
    assert sum(math.isinf(each.high) for each in found) < 10
    assert abs(np.mean([holds(each, TRUE_RATIO) for each in found]) - LEVEL) < four_errors(len(found))


@pytest.mark.parametrize("standard_errors", [0.0, 0.5, 1.5, 2.5, 4.0])
def test_ratio_interval_still_covers_where_the_denominator_is_barely_resolved(standard_errors):
    num_values = 12
    found = ratio_draws(
        denominator=max(standard_errors, 1e-3) / math.sqrt(num_values), num_draws=3000, num_values=num_values, seed=1
    )
    assert np.mean([holds(each, TRUE_RATIO) for each in found]) > LEVEL - four_errors(len(found))
    unbounded = np.mean([math.isinf(each.high) for each in found])
    assert unbounded > 0.5 if standard_errors < 2 else unbounded < 0.5


def test_ratio_interval_lower_end_is_right_where_there_is_no_upper_one():
    """With a resolved numerator the only miss is below: the truth is under ``low`` with half the error probability at most."""
    rng = np.random.default_rng(12)
    covariance = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = [
        ratio_interval(float(top), float(bottom), covariance, dof=1e9)
        for top, bottom in zip(rng.normal(30.0, 1.0, 4000), rng.normal(0.5, 1.0, 4000), strict=True)
    ]
    unbounded = [each for each in found if math.isinf(each.high)]
    assert len(unbounded) > 3000
    assert all(each.low > 0 for each in unbounded if math.isfinite(each.value))
    missed = np.mean([each.low > 60.0 for each in found])
    assert missed < 0.5 * (1 - LEVEL) + four_errors(len(found))


def test_ratio_interval_ends_solve_fiellers_equation():
    top, bottom, dof = 10.0, 4.0, 7.0
    found = ratio_interval(top, bottom, 0.1 * COVARIANCE, dof=dof)
    for end in (found.low, found.high):
        variance = 0.1 * (COVARIANCE[0, 0] - 2 * end * COVARIANCE[0, 1] + end**2 * COVARIANCE[1, 1])
        assert abs(top - end * bottom) == pytest.approx(student_quantile(LEVEL, dof) * math.sqrt(variance), rel=1e-9)


def test_ratio_interval_is_ordered_and_not_negative_for_any_positive_numerator():
    rng = np.random.default_rng(13)
    for _ in range(3000):
        factor = rng.normal(size=(2, 2)) * 10 ** rng.uniform(-4, 3, size=(2, 1))
        top, bottom = abs(rng.normal()) * 10 ** rng.uniform(-3, 3), rng.normal() * 10 ** rng.uniform(-3, 3)
        dof = rng.choice([0.0, 0.3, 1.0, 5.0, 1e6])
        found = ratio_interval(float(top), float(bottom), factor @ factor.T, dof=float(dof))
        assert is_ordered(found)
        assert found.low >= 0
        assert found.value == (top / bottom if bottom > 0 else math.inf)


def test_ratio_interval_widens_with_the_level_and_with_fewer_degrees():
    def width(**options: float) -> float:
        found = ratio_interval(10.0, 5.0, 0.05 * COVARIANCE, **options)
        return found.high - found.low

    assert width(dof=10.0, level=0.5) < width(dof=10.0, level=0.9) < width(dof=10.0, level=0.99)
    assert width(dof=100.0) < width(dof=10.0) < width(dof=3.0)


def test_ratio_interval_scales_with_the_numerator_and_against_the_denominator():
    plain = ratio_interval(10.0, 5.0, 0.1 * COVARIANCE, dof=9.0)
    scaling = np.diag([8.0, 2.0])
    scaled = ratio_interval(80.0, 10.0, scaling @ (0.1 * COVARIANCE) @ scaling, dof=9.0)
    for name in ("value", "low", "high"):
        assert getattr(scaled, name) == pytest.approx(4 * getattr(plain, name))


def test_ratio_interval_without_error_is_the_ratio():
    found = ratio_interval(1.0, 3.0, np.zeros((2, 2)), dof=5.0)
    assert (found.low, found.value, found.high) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_ratio_interval_of_perfectly_correlated_parts_is_the_ratio():
    found = ratio_interval(6.0, 3.0, 0.01 * np.outer([6.0, 3.0], [6.0, 3.0]), dof=20.0)
    assert (found.low, found.value, found.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize("denominator", [0.0, -0.5, -50.0])
def test_ratio_interval_is_infinite_where_the_denominator_is_not_positive(denominator):
    found = ratio_interval(10.0, denominator, COVARIANCE, dof=5.0)
    assert (found.value, found.high) == (math.inf, math.inf)
    assert found.low >= 0


@pytest.mark.parametrize(("numerator", "denominator"), [(10.0, 5.0), (10.0, -5.0), (-1.0, 5.0)])
def test_ratio_interval_without_a_degree_of_freedom_has_no_upper_end(numerator, denominator):
    found = ratio_interval(numerator, denominator, 0.01 * COVARIANCE, dof=0.0)
    assert found.high == math.inf
    assert is_ordered(found)
    assert found.low <= 0


def test_ratio_interval_below_one_degree_is_wider_than_at_one():
    at_one, below = (ratio_interval(1e6, 1e6, COVARIANCE, dof=dof) for dof in (1.0, 0.5))
    assert below.low < at_one.low < at_one.high < below.high


@pytest.mark.parametrize(("numerator", "denominator"), [(math.nan, 1.0), (1.0, math.nan), (math.nan, -1.0)])
def test_ratio_interval_of_nan_is_nan_and_not_unresolved(numerator, denominator):
    found = ratio_interval(numerator, denominator, COVARIANCE, dof=5.0)
    assert all(math.isnan(number) for number in (found.value, found.low, found.high))
