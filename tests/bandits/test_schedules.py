"""Schedules against the published lists, and their sums."""

import math

import pytest

from batchwright.bandits.schedules import (
    batch_schedule,
    describe,
    geometric_lengths,
    geometric_num_batches,
    optimal_num_batches,
    regret_exponent,
    regret_sum,
)
from batchwright.core.errors import InputError


@pytest.mark.parametrize(
    ("horizon", "lengths"),
    [
        (64, [8, 23, 33]),
        (256, [16, 64, 128, 48]),
        (1024, [32, 182, 432, 378]),
        (1000, [32, 179, 424, 365]),
        (10**4, [100, 1000, 3163, 5625, 112]),
    ],
)
def test_the_square_root_schedule_is_the_published_one(horizon, lengths):
    assert batch_schedule(horizon, rule="sqrt") == lengths


def test_the_number_of_batches_of_the_square_root_schedule():
    assert [len(batch_schedule(10**k, rule="sqrt")) for k in (2, 3, 4, 5, 6, 8)] == [4, 4, 5, 5, 5, 6]


def test_the_optimal_numbers_of_batches_are_the_published_ones():
    horizons = (1e3, 1e6, 1e12, 1e24)
    assert [optimal_num_batches(horizon) for horizon in horizons] == [3, 3, 4, 5]
    assert [optimal_num_batches(horizon, "matern", 2.5, 2) for horizon in horizons] == [2, 3, 3, 4]


def test_the_sums_of_the_regrets_are_the_published_ones():
    horizons = (10**4, 10**6, 10**9, 10**12, 10**18)
    plain = [regret_sum(batch_schedule(horizon, rule="sqrt")) for horizon in horizons]
    assert plain == pytest.approx([4.0, 4.6, 5.2, 5.6, 6.2], abs=0.05)
    refined = [regret_sum(geometric_lengths(horizon, geometric_num_batches(horizon), 0.5)) for horizon in horizons]
    # 3.43 to 3.48 is published, to within 0.1; one batch more or less moves it by 0.02.
    assert all(3.41 <= each <= 3.50 for each in refined)


def test_the_exponent_schedule_gives_every_batch_the_same_regret():
    eta = regret_exponent("matern", 2.5, 2)
    assert eta == pytest.approx(2.5 / 7)
    lengths = batch_schedule(10**9, 4, "matern", 2.5, 2)
    # All are scaled by one factor c, so the first batch has c of the common regret and each later one c^(1 − η).
    before, regrets = 1.0, []
    for length in lengths:
        regrets.append(length * before**-eta)
        before = length
    assert max(regrets[1:]) / min(regrets[1:]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rule", ["equal", "exponent", "geometric"])
@pytest.mark.parametrize("num_batches", [None, 1, 2, 3, 6])
@pytest.mark.parametrize("horizon", [6, 7, 64, 1000, 12345])
def test_lengths_sum_to_the_horizon_and_none_is_empty(horizon, num_batches, rule):
    for kernel in ("se", "matern"):
        lengths = batch_schedule(horizon, num_batches, kernel, 1.5, 3, rule=rule)
        assert sum(lengths) == horizon
        assert min(lengths) >= 1
        assert num_batches is None or len(lengths) == num_batches
    assert sum(batch_schedule(horizon, rule="sqrt")) == horizon


def test_the_plan_is_a_sentence_and_wrong_input_is_told():
    assert describe(batch_schedule(64, rule="sqrt")) == "64 trials in 3 rounds: 8, 23, 33"
    assert describe([1] * 9) == "9 trials in 9 rounds of one"
    assert describe([5]) == "5 trials in 1 round: 5"
    assert math.isclose(regret_sum([100]), 10)
    with pytest.raises(InputError, match="num_batches must be at most the horizon"):
        batch_schedule(3, 5)
    with pytest.raises(InputError, match="must be None with rule 'sqrt'"):
        batch_schedule(64, 3, rule="sqrt")
    with pytest.raises(InputError, match="rule must be one of"):
        batch_schedule(64, rule="linear")
