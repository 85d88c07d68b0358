"""The largest harmless batch size: exact where the harm is known, an interval that covers, open ends where the sizes do not tell."""

import math

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.measure.harmless import largest_harmless

SIZES = (8, 16, 32, 64, 128)


def repeats(margins: list[float], scatter: float = 0.0, count: int = 4, seed: int = 0) -> np.ndarray:
    noise = scatter * np.random.default_rng(seed).standard_normal((count, len(margins)))
    noise[:, 0] = 0.0
    return np.array(margins) + noise


def test_crossing_between_two_sizes_is_that_of_the_line():
    found = largest_harmless(SIZES, repeats([-1.0, -0.75, -0.25, 0.75, 2.0]))
    assert found.value == pytest.approx(40.0)
    assert (found.low, found.high) == pytest.approx((40.0, 40.0))


def test_harm_that_is_never_seen_leaves_the_upper_end_open():
    found = largest_harmless(SIZES, repeats([-1.0, -1.0, -1.1, -0.9, -0.8], scatter=0.01))
    assert (found.low, found.value, found.high) == (128.0, math.inf, math.inf)
    seen_but_unsure = largest_harmless(SIZES, repeats([-1.0, -1.0, -1.0, -0.5, 0.1], scatter=1.0))
    assert math.isinf(seen_but_unsure.high)
    assert seen_but_unsure.low < 128


def test_harm_at_every_larger_size_leaves_the_yardstick():
    found = largest_harmless(SIZES, repeats([-0.001, 5.0, 6.0, 7.0, 8.0], scatter=0.01))
    assert found.low >= 8.0
    assert found.high < 8.1


def test_a_second_fall_below_the_tolerance_keeps_the_upper_end_honest():
    found = largest_harmless(SIZES, repeats([-1.0, 1.0, -1.0, 1.0, 2.0]))
    assert found.value == pytest.approx(12.0)
    assert found.high == pytest.approx(48.0)


def test_a_diverged_size_is_harmful_and_what_lies_before_it_is_not_known():
    margins = repeats([-1.0, -0.9, -0.8, -0.7, math.inf], scatter=0.01)
    found = largest_harmless(SIZES, margins)
    assert (found.low, found.value, found.high) == (64.0, 64.0, 128.0)
    one_of_four = repeats([-1.0, -0.9, -0.8, -0.7, 0.0], scatter=0.01)
    one_of_four[2, 3:] = math.inf
    assert largest_harmless(SIZES, one_of_four).high == 64.0


def test_interval_covers_the_crossing_in_95_of_100_repeats():
    """Harm linear in the batch size with correlated noise; the crossing is at 50."""
    rng = np.random.default_rng(1)
    sizes = np.array(SIZES, dtype=float)
    covered = 0
    for _ in range(400):
        common = rng.standard_normal((3, 1))
        margins = (sizes - 50.0) / 42.0 + 0.2 * (common + rng.standard_normal((3, len(sizes)))) * (sizes > 8)
        found = largest_harmless(SIZES, margins)
        covered += found.low <= 50.0 <= found.high
    # Nominal 380 of 400, standard error 4.4; the set holds its crossing exactly at the nominal rate, so both sides are bounded.
    assert 363 <= covered <= 397


def test_bad_shapes_are_named():
    with pytest.raises(
        InputError, match=r"margins must hold at least 2 repeats of at least 2 sizes, got shape \(1, 5\)"
    ):
        largest_harmless(SIZES, np.zeros((1, 5)))
    with pytest.raises(InputError, match="level must be"):
        largest_harmless(SIZES, np.zeros((3, 5)), level=1.5)
