import math

import numpy as np
import pytest

from batchwright.core.statistics import Interval
from batchwright.studies.verdict import judge, judge_each, judge_interval, trend


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([10.0, 10.1, 9.9], "holds"),
        ([10.0, 12.0, 8.0], "not resolved"),
        ([20.0, 20.1, 19.9], "does not hold"),
        ([11.5, 10.9, 11.8], "not resolved"),
        ([10.0], "holds"),
        ([12.0], "does not hold"),
        ([math.inf, 10.0], "does not hold"),
        ([], "not there yet"),
    ],
)
def test_verdict_of_a_mean(values, verdict):
    assert judge(values, 9.0, 11.0)[1] == verdict


def test_a_run_that_was_cut_short_or_still_moves_is_not_there_yet():
    rising = trend([0, 1000, 2000, 3000], [5.0, 5.5, 6.1, 6.5])
    assert judge([6.5, 6.4, 6.6], 9.0, 11.0, trend=rising)[1] == "not there yet"
    assert judge([6.5, 6.4, 6.6], 9.0, 11.0, finished=False)[1] == "not there yet"
    # One seed of several planned settles nothing, also where it passes; one of one does.
    assert judge([10.0], 9.0, 11.0, finished=False)[1] == "not there yet"
    assert judge([10.0], 9.0, 11.0)[1] == "holds"
    falling = trend([0, 1000, 2000, 3000], [6.5, 6.1, 5.5, 5.0])
    assert judge([6.5, 6.4, 6.6], 9.0, 11.0, trend=falling)[1] == "does not hold"


def test_trend_is_the_least_squares_slope_of_scipy():
    from scipy.stats import linregress

    rng = np.random.default_rng(0)
    steps = np.arange(0, 10_000, 1000)
    values = 10 + 0.001 * steps + rng.normal(size=len(steps))
    wanted = linregress(steps, values)
    found = trend(steps.tolist(), values.tolist())
    assert found.slope == pytest.approx(1000 * wanted.slope / values.mean())
    assert found.standard_error == pytest.approx(1000 * wanted.stderr / values.mean())
    assert math.isinf(trend([0, 1], [1.0, 2.0]).standard_error)


def test_a_claim_about_every_run_is_judged_run_by_run():
    assert judge_each([6.0, 30.0, math.inf], 5.0, math.inf)[1] == "holds"
    assert judge_each([6.0, 4.9], 5.0, math.inf)[1] == "does not hold"
    assert judge_each([math.nan, 6.0], 5.0, math.inf)[1] == "does not hold"


def test_a_value_with_its_own_interval():
    assert judge_interval(Interval(value=1.0, low=0.99, high=1.01), 0.97, 1.03) == "holds"
    assert judge_interval(Interval(value=1.0, low=0.9, high=1.1), 0.97, 1.03) == "not resolved"
    assert judge_interval(Interval(value=1.2, low=1.1, high=1.3), 0.97, 1.03) == "does not hold"
