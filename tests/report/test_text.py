import math

import pytest

from batchwright.core.statistics import Interval
from batchwright.report.text import count, duration, estimate, natural_key, ratio, seconds_with_span, span, with_span


def made(value: float, low: float, high: float) -> Interval:
    return Interval(value=float(value), low=float(low), high=float(high))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (0.21049, "0.21"),
        (9.9996, "10"),
        (999.6, "1,000"),
        (12345.6, "12,300"),
        (-12345.6, "−12,300"),
        (999_999.0, "1 million"),
        (2.5e9, "2.5 billion"),
        (3.0e-5, "3e-5"),
        (1e300, "1e300"),
        (math.inf, "∞"),
        (math.nan, "not a number"),
    ],
)
def test_estimate_writes_three_digits(value: float, written: str):
    assert estimate(value) == written


def test_count_keeps_all_digits_of_whole_numbers_only():
    assert count(1234567.0) == "1,234,567"
    assert count(1.5) == "1.5"
    assert count(math.inf) == "∞"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (3.4e-5, "34 µs"),
        (0.0021, "2.1 ms"),
        (7.31, "7.31 s"),
        (90.0, "90 s"),
        (150.0, "2.5 min"),
        (9000.0, "2.5 h"),
        (0.0, "0 s"),
    ],
)
def test_duration_takes_the_unit_that_suits(seconds: float, written: str):
    assert duration(seconds) == written


def test_span_says_what_is_not_bounded():
    assert span(made(128, 64, 256)) == "64–256"
    assert span(made(math.inf, 64, math.inf)) == "at least 64"
    assert span(made(3, -math.inf, 5)) == "at most 5"
    assert span(made(3, -math.inf, math.inf)) == "unknown"
    assert span(made(0.5, -1, 2)) == "−1 to 2"


def test_value_without_bound_is_never_written_as_a_number():
    assert with_span(made(math.inf, 14, math.inf)) == "at least 14"
    assert with_span(made(math.inf, 0, math.inf)) == "not enough evidence"
    assert with_span(made(128, 64, 256)) == "128 (64–256)"


def test_interval_of_seconds_has_one_unit():
    assert seconds_with_span(made(0.0021, 0.0019, 0.0023)) == "2.1 ms (1.9–2.3 ms)"


def test_ratio_keeps_two_decimals_near_one():
    assert (ratio(1.0), ratio(1.04), ratio(12.0)) == ("1.00", "1.04", "12")


def test_natural_order_counts_numbers():
    assert sorted(["batch-256", "batch-64", "batch-1024", "a"], key=natural_key) == [
        "a",
        "batch-64",
        "batch-256",
        "batch-1024",
    ]
