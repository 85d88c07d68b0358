"""Checks let good values through unchanged and name the argument, the rule and the value of bad ones."""

import math
from fractions import Fraction

import numpy as np
import pytest

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError


@pytest.mark.parametrize("value", [2, 3, 10**30, np.int64(7), np.uint8(2)])
def test_check_int_returns_a_plain_int(value):
    found = check_int("size", value, at_least=2)
    assert found == value
    assert type(found) is int


@pytest.mark.parametrize("value", [1, -5, 2.0, "3", None, True, math.nan, np.float64(4), [2]])
def test_check_int_refuses_all_else(value):
    with pytest.raises(InputError, match=r"size must be an integer of at least 2, got .*; use 2"):
        check_int("size", value, at_least=2, way_out="use 2")


@pytest.mark.parametrize("value", [0.5, 1, 2, np.float32(1.5), Fraction(3, 2)])
def test_check_number_returns_a_float(value):
    found = check_number("lr", value, above=0.0, at_most=2.0)
    assert found == value
    assert type(found) is float


@pytest.mark.parametrize("value", [0.0, 2.1, math.nan, math.inf, -math.inf, True, "1", None, 1j])
def test_check_number_refuses_all_else(value):
    with pytest.raises(InputError, match="lr must be a finite number and above 0 and at most 2, got"):
        check_number("lr", value, above=0.0, at_most=2.0)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"above": 1.0}, 1.1, 1.0),
        ({"at_least": 1.0}, 1.0, 0.9),
        ({"at_most": 1.0}, 1.0, 1.1),
        ({"below": 1.0}, 0.9, 1.0),
    ],
)
def test_check_number_holds_its_bounds_exactly(bounds, inside, outside):
    assert check_number("x", inside, **bounds) == inside
    with pytest.raises(InputError, match=r"x must be a finite number and .* 1, got .*; ask"):
        check_number("x", outside, way_out="ask", **bounds)


def test_check_choice_lists_the_choices_in_order():
    assert check_choice("mode", "b", ("b", "a")) == "b"
    with pytest.raises(InputError, match="mode must be one of a, b, got 'c'"):
        check_choice("mode", "c", {"b": 1, "a": 2})
