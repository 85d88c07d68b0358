"""The coefficients are the best of their kind: errors alternate, and no published or nearby choice does better."""

import math

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.optim.polar import JORDAN, best_quintics, depth_for, zolotarev
from batchwright.optim.polar.quintic import (
    apply_quintic,
    best_depth,
    best_quintic,
    compose,
    jordan_depth,
    largest_error,
)
from batchwright.optim.polar.zolotarev import terms_needed


def grid(low, high=1.0, size=40_001):
    return np.exp(np.linspace(math.log(low), math.log(high), size))


def extremes(values):
    """Signed values of largest size between two changes of sign."""
    parts = np.split(values, np.flatnonzero(np.diff(np.sign(values))) + 1)
    return np.array([part[np.abs(part).argmax()] for part in parts])


@pytest.mark.parametrize("low", [1e-6, 1e-3, 0.05, 0.5, 0.9])
def test_the_error_of_the_best_quintic_alternates_four_times(low):
    # By Chebyshev's theorem that makes it the best: three odd powers, four extremes of equal size and changing sign.
    quintic, error = best_quintic(low, 1.3)
    found = extremes(1 - apply_quintic(quintic, grid(low, 1.3)))
    assert len(found) == 4
    assert np.abs(found) == pytest.approx(np.full(4, error), rel=1e-4)


def test_on_a_short_interval_it_is_the_limit_of_third_order():
    quintic, error = best_quintic(0.99999, 1.00001)
    assert quintic == pytest.approx((1.875, -1.25, 0.375))
    assert error < 1e-14


@pytest.mark.parametrize(("smallest", "num_steps"), [(1e-3, 5), (1e-3, 8), (1e-2, 4), (1e-6, 9)])
def test_the_composition_keeps_to_the_bound_of_its_last_step(smallest, num_steps):
    low, high = smallest, 1.0
    for _ in range(num_steps):
        _, error = best_quintic(low, high)
        low, high = 1 - error, 1 + error
    assert largest_error(best_quintics(smallest, num_steps), smallest) == pytest.approx(error, rel=1e-3, abs=1e-14)


def test_five_best_steps_leave_a_third_of_the_error_of_the_fixed_ones():
    best, fixed = best_quintics(1e-3, 5), (JORDAN,) * 5
    assert largest_error(best, 1e-3) == pytest.approx(0.113, abs=0.001)
    assert largest_error(fixed, 1e-3) == pytest.approx(0.53, abs=0.01)


def test_no_coefficients_nearby_are_better_than_the_best():
    quintic, error = best_quintic(0.02, 1.0)
    values, generator = grid(0.02), np.random.default_rng(0)
    for _ in range(200):
        near = tuple(np.array(quintic) * (1 + 0.01 * generator.standard_normal(3)))
        assert np.abs(1 - apply_quintic(near, values)).max() >= error


def test_the_safety_margin_is_in_every_step_but_the_last():
    # Values 1 % above each interval, as bfloat16 may give, stay where the steps converge.
    safe, plain = best_quintics(1e-3, 8, safety=1.02), best_quintics(1e-3, 8)

    def above_each_interval(quintics):
        values = grid(1e-3)
        with np.errstate(over="ignore", invalid="ignore"):
            for quintic in quintics:
                values = apply_quintic(quintic, values * 1.01)
        return np.abs(values).max()

    assert above_each_interval(safe) < 1.05
    assert not above_each_interval(plain) < 1e6
    assert safe[0][0] == pytest.approx(plain[0][0] / 1.02)
    assert safe[-1] == plain[-1]
    assert largest_error(safe, 1e-3) < 0.01


def test_depths_are_the_fewest_steps_that_do():
    for smallest, tolerance in ((1e-3, 0.2), (1e-3, 0.01), (1e-5, 0.1)):
        depth = best_depth(smallest, tolerance)
        assert largest_error(best_quintics(smallest, depth), smallest) <= tolerance
        assert largest_error(best_quintics(smallest, depth - 1), smallest) > tolerance
        terms = terms_needed(smallest, tolerance)
        assert zolotarev(smallest, terms).error <= tolerance < zolotarev(smallest, terms - 1).error


def test_the_fixed_quintic_needs_the_depth_of_the_power_law():
    # Each step multiplies the smallest by 3.4445; papers-2026, 2.1.
    for dim, alpha in ((256, 2.0), (512, 1.5)):
        smallest = dim**-alpha
        depth = jordan_depth(smallest)
        assert depth <= 5 + math.ceil(alpha * math.log(dim) / math.log(JORDAN[0]))
        assert compose((JORDAN,) * depth, grid(smallest)).min() >= 0.68
        assert compose((JORDAN,) * 5, np.array([smallest]))[0] < 0.05


@pytest.mark.parametrize("num_terms", [1, 2, 3, 4])
@pytest.mark.parametrize("smallest", [1e-4, 1e-3, 1e-2, 0.3])
def test_the_error_of_zolotarevs_function_alternates_as_often_as_it_can(smallest, num_terms):
    # 2 r + 1 parameters: 2 r + 2 extremes of equal size, so no rational function of its type is better.
    rational = zolotarev(smallest, num_terms)
    found = extremes(1 - rational(grid(smallest)))
    assert len(found) == 2 * num_terms + 2
    assert np.abs(found) == pytest.approx(np.full(len(found), rational.error), rel=2e-3, abs=1e-9)
    assert min(rational.shifts) > 0
    assert min(rational.weights) > 0


def test_zolotarevs_error_falls_at_the_rate_of_the_theory():
    # Gonchar: the logarithm of the ratio of errors tends to pi^2 / ln(4 / smallest) a term, for a ring of modulus ln(4/smallest)/pi.
    smallest = 1e-3
    rate = math.log(zolotarev(smallest, 4).error / zolotarev(smallest, 5).error)
    assert rate == pytest.approx(math.pi**2 / math.log(4 / smallest), rel=0.02)


def test_the_depth_of_each_route_is_stated():
    assert depth_for("rational", 2e-3) == 2
    assert depth_for("rational", 1e-3) == 3
    assert depth_for("polar-express", 1e-3) == 5
    assert depth_for("newton-schulz", 1e-3) == 6
    with pytest.raises(InputError, match="route must be one of"):
        depth_for("exact", 1e-3)


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: best_quintics(0.0, 5), "smallest must be a finite number and above 0"),
        (lambda: best_quintics(0.1, 5, safety=0.9), "safety must be a finite number and at least 1"),
        (lambda: zolotarev(1e-9, 2), "smallest must be a finite number and at least 1e-05"),
        (lambda: zolotarev(1e-2, 9), "num_terms must be a finite number and at most 8"),
    ],
)
def test_bad_arguments_are_refused(call, rule):
    with pytest.raises(InputError, match=rule):
        call()
