"""Variance bounds, error bounds and curvature constants: published values, the counterexample, and coverage."""

import math

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.rl import GaussianPolicy, SoftmaxPolicy
from batchwright.rl.error_bounds import (
    bernstein,
    bounded_score,
    chebyshev,
    hoeffding,
    norm_bernstein,
    sub_gaussian_score,
    time_factor,
)
from batchwright.rl.smoothness import curvature, published_curvature
from batchwright.rl.variance_bounds import gpomdp_variance, reinforce_variance

# The setting of the paper's LQG: R = 4, kappa = M²/sigma² = 4, discount .9, horizon 20.
LQG = {"reward_bound": 4.0, "kappa": 4.0, "discount": 0.9, "horizon": 20}
UNIT = {"reward_bound": 1.0, "kappa": 1.0}


def test_the_published_constants():
    assert reinforce_variance(**LQG) == pytest.approx(98768.3, abs=0.05)
    assert gpomdp_variance(**LQG, form="published") == pytest.approx(21408.4, abs=0.05)
    assert gpomdp_variance(**LQG) == pytest.approx(35714.3, abs=0.05)
    c = published_curvature(reward_bound=5.0, feature_bound=2.0, std=0.1, action_volume=4.0, discount=0.9)
    assert c == pytest.approx(4091538.243, abs=5e-4)
    c = published_curvature(reward_bound=4.0, feature_bound=2.0, std=1.0, action_volume=4.0, discount=0.9)
    assert c == pytest.approx(9753.23, abs=5e-3)


def test_the_published_form_is_that_of_the_public_code():
    gamma, horizon = 0.9, 20
    closed = (
        (1 - gamma ** (2 * horizon)) / (1 - gamma**2)
        + horizon * gamma ** (2 * horizon)
        - 2 * gamma**horizon * (1 - gamma**horizon) / (1 - gamma)
    ) / (1 - gamma) ** 2
    found = gpomdp_variance(**UNIT, discount=gamma, horizon=horizon, form="published")
    assert found == pytest.approx(closed, rel=1e-12)


@pytest.mark.parametrize(
    ("discount", "horizon", "variance"), [(0.9, 20, 393.4), (0.9, 10, 148.1), (0.99, 100, 121440), (0.5, 10, 6.04)]
)
def test_the_counterexample_lies_between_the_published_formula_and_the_bounds(discount, horizon, variance):
    """``phi = 1``, rewards ``R xi sign(Z_t)``: the mean gradient is zero and each estimate is ``± sum gamma^t |Z_t|``."""
    rng = np.random.default_rng(0)
    walk = np.abs(np.cumsum(rng.standard_normal((40_000, horizon)), axis=1)) @ discount ** np.arange(horizon)
    square = walk**2
    found, error = square.mean(), square.std() / math.sqrt(len(square))
    assert abs(found - variance) < 4 * error + 5e-4 * variance  # the published figure has four digits
    bound = {
        form: gpomdp_variance(**UNIT, discount=discount, horizon=horizon, form=form)
        for form in ("published", "minkowski", "cauchy-schwarz")
    }
    assert found - 4 * error > bound["published"]
    assert found + 4 * error < bound["minkowski"] < bound["cauchy-schwarz"]


def test_bounds_hold_at_discount_one():
    assert reinforce_variance(**UNIT, discount=1.0, horizon=5) == 5 * 25
    assert gpomdp_variance(**UNIT, discount=1.0, horizon=5) == 5 * 15


@pytest.mark.parametrize("num_coordinates", [1, 3])
def test_error_bounds_by_hand(num_coordinates):
    share = 0.1 / num_coordinates
    assert chebyshev(9.0, 0.1, num_coordinates=num_coordinates).d == pytest.approx(3 / math.sqrt(share))
    assert hoeffding(2.0, 0.1, num_coordinates=num_coordinates).d == pytest.approx(
        2 * math.sqrt(math.log(2 / share) / 2)
    )
    found = bernstein(9.0, 2.0, 0.1, num_coordinates=num_coordinates)
    assert found.d == pytest.approx(3 * math.sqrt(2 * math.log(3 / share)))
    assert found.f == pytest.approx(6 * math.log(3 / share))
    assert found.error(100) == pytest.approx(found.d / 10 + found.f / 100)


def test_error_bounds_fail_no_more_often_than_they_may_on_the_largest_of_several_coordinates():
    """Bernoulli values, of range 1: the means of 20 coordinates, the worst of which is looked at."""
    rng, delta, number, m = np.random.default_rng(0), 0.3, 50, 20
    draws = (rng.random((2000, number, m)) < 0.5).astype(float)
    worst = np.abs(draws.mean(1) - 0.5).max(1)
    for bound in (chebyshev(0.25, delta, num_coordinates=m), hoeffding(1.0, delta, num_coordinates=m)):
        assert (worst > bound.error(number)).mean() <= delta
    # Without the union bound Chebyshev's promise is broken.
    assert (worst > chebyshev(0.25, delta).error(number)).mean() > delta


def test_empirical_bernstein_covers():
    rng, delta, number = np.random.default_rng(0), 0.2, 40
    draws = (rng.random((4000, number)) < 0.2).astype(float)
    variance = draws.var(axis=1, ddof=1)
    away = np.abs(draws.mean(1) - 0.2)
    fails = [a > bernstein(float(v), 1.0, delta).error(number) for a, v in zip(away, variance, strict=True)]
    assert np.mean(fails) <= delta


def test_norm_bounds_by_hand():
    factor = time_factor(discount=0.9, horizon=20, estimator="gpomdp")
    assert factor == pytest.approx((1 - 0.9**20 - 20 * (0.9**20 - 0.9**21)) / 0.01)
    assert time_factor(discount=0.9, horizon=20, estimator="reinforce") == pytest.approx(20 * (1 - 0.9**20) / 0.1)
    options = {"reward_bound": 2.0, "time_factor": factor, "num_parameters": 3, "delta": 0.1}
    assert bounded_score(**options, score_bound=1.5).d == pytest.approx(
        2 * 2 * 1.5 * factor * math.sqrt(6 * math.log(60))
    )
    assert sub_gaussian_score(**options, proxy=1.5).d == pytest.approx(
        4 * 2 * 1.5 * factor * math.sqrt(42 * math.log(60))
    )
    found = norm_bernstein(**options, score_bound=1.5, sample_variance=7.0, num_trajectories=101)
    assert found.error(101) == pytest.approx(
        math.sqrt(8 * 3 * 7 * math.log(120) / 101) + 14 * 3 * 2 * 1.5 * factor * math.log(60) / 300
    )


def test_curvature_of_the_follow_up_paper():
    gamma, sigma, bound = 0.9, 0.5, 2.0
    smooth = GaussianPolicy(1, 1, std=sigma).smoothing(bound)
    found = curvature(smooth, reward_bound=3.0, discount=gamma, horizon=20, form="smoothing")
    written = 2 * bound**2 * 3 / (sigma**2 * (1 - gamma) ** 2) * (1 + 2 * gamma / (math.pi * (1 - gamma)))
    assert 2 * found == pytest.approx(written, rel=1e-12)
    soft = SoftmaxPolicy(1, 3, temperature=0.5).smoothing(bound)
    found = curvature(soft, reward_bound=3.0, discount=gamma, horizon=20, form="smoothing")
    written = 2 * bound**2 * 3 / (0.5**2 * (1 - gamma) ** 2) * (3 + 4 * gamma / (1 - gamma))
    assert 2 * found == pytest.approx(written, rel=1e-12)
    improved = curvature(smooth, reward_bound=3.0, discount=gamma, horizon=20, form="infinite-horizon")
    assert 2 * improved == pytest.approx(2 * bound**2 * 3 / (sigma**2 * (1 - gamma) ** 2), rel=1e-12)
    soft_improved = curvature(soft, reward_bound=3.0, discount=gamma, horizon=20, form="infinite-horizon")
    assert 2 * soft_improved == pytest.approx(6 * bound**2 * 3 / (0.5**2 * (1 - gamma) ** 2), rel=1e-12)


def test_the_finite_horizon_constant_tends_to_the_infinite_one_from_below():
    smooth = GaussianPolicy(1, 1).smoothing(1.0)
    values = [curvature(smooth, reward_bound=1.0, discount=0.9, horizon=h) for h in (1, 20, 500)]
    limit = curvature(smooth, reward_bound=1.0, discount=0.9, horizon=20, form="infinite-horizon")
    assert values[0] == 1.0
    assert values[0] < values[1] < values[2] <= limit * (1 + 1e-12)
    assert values[2] == pytest.approx(limit, rel=1e-9)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="delta must be a finite number and above 0 and below 1, got 1"):
        chebyshev(1.0, 1.0)
    with pytest.raises(InputError, match="form must be one of"):
        gpomdp_variance(**LQG, form="2017")
    with pytest.raises(InputError, match="discount must be below 1 for the form"):
        curvature(
            GaussianPolicy(1, 1).smoothing(1.0), reward_bound=1.0, discount=1.0, horizon=9, form="infinite-horizon"
        )
