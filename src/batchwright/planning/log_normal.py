"""Intervals of products and inverses of positive quantities, taken as log-normal."""

import math

from batchwright.core.statistics import Interval


def product(left: Interval, right: Interval) -> Interval:
    """Interval of a product of two independent positive quantities, both taken as log-normal."""
    below = math.hypot(_log_gap(left.value, left.low), _log_gap(right.value, right.low))
    above = math.hypot(_log_gap(left.high, left.value), _log_gap(right.high, right.value))
    value = left.value * right.value
    return Interval(value=value, low=value * math.exp(-below), high=value * _exp(above), level=left.level)


def inverse(interval: Interval) -> Interval:
    """Interval of one over a positive quantity."""
    return Interval(
        value=1 / interval.value,
        low=0.0 if math.isinf(interval.high) else 1 / interval.high,
        high=math.inf if interval.low <= 0 else 1 / interval.low,
        level=interval.level,
    )


def _log_gap(upper: float, lower: float) -> float:
    return math.inf if lower <= 0 or math.isinf(upper) else math.log(upper / lower)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
