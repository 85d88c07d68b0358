"""The step-time fit finds known curves through noise and outliers, and its intervals cover them."""

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.measure.step_time import fit_step_time, robust_spread

A, B = 1e-3, 2e-5
SIZES = (2, 8, 32, 64, 128, 256)
COUNTS = (12, 12, 10, 7, 4, 3)
# Throughput 1 / (A / B_size + B): within 2 % of that at 256 from here on.
KNEE = 228


def draw(rng, *, overhead=A, noise=0.03, outliers=0.0, disturbed=0.0, curve=None) -> dict[int, list[float]]:
    repeats = {}
    for size, count in zip(SIZES, COUNTS, strict=True):
        true = overhead + B * size if curve is None else curve(size)
        times = true * np.exp(noise * rng.standard_normal(count))
        hit = rng.random(count) < outliers
        times[hit] *= 1 + rng.exponential(1.0, hit.sum())
        times[rng.random(count) < disturbed] *= 2.5
        repeats[size] = times.tolist()
    return repeats


def test_exact_times_give_the_exact_line():
    curve = fit_step_time({size: [A + B * size] * 3 for size in SIZES})
    assert curve.fit == "affine"
    assert curve.knots == ()
    assert curve.overhead_s.value == pytest.approx(A, rel=1e-6)
    assert curve.per_example_s.value == pytest.approx(B, rel=1e-6)
    assert curve.step_time_s(1000).value == pytest.approx(A + 1000 * B, rel=1e-6)
    assert curve.knee == KNEE
    assert curve.flat_until == 2 + int(0.1 * (A + 2 * B) / B)


@pytest.mark.parametrize(("noise", "outliers", "overhead"), [(0.03, 0.0, A), (0.1, 0.1, A), (0.03, 0.1, 0.0)])
def test_intervals_cover_through_noise_and_outliers(noise, outliers, overhead):
    rng, runs = np.random.default_rng(1), 200
    covered = np.zeros(3)
    affine = 0
    for _ in range(runs):
        curve = fit_step_time(draw(rng, noise=noise, outliers=outliers, overhead=overhead))
        beyond = curve.step_time_s(512)
        covered += [
            curve.overhead_s.low <= overhead <= curve.overhead_s.high,
            curve.per_example_s.low <= B <= curve.per_example_s.high,
            beyond.low <= overhead + 512 * B <= beyond.high,
        ]
        affine += curve.fit == "affine"
    # Four standard errors of a share of 0.95 in 200 runs are 0.06.
    assert (covered / runs >= 0.95 - 0.06).all(), covered / runs
    assert affine >= 0.93 * runs


def test_parts_are_never_negative():
    falling = fit_step_time({2: [1.0, 1.0], 8: [0.99, 0.99], 32: [0.98, 0.98]})
    assert falling.per_example_s.value == 0
    assert falling.flat_until == falling.knee == 32 or falling.flat_until == 32
    through_zero = fit_step_time({2: [1.9, 1.9], 8: [8.1, 8.1], 32: [32.5, 32.5]})
    assert through_zero.overhead_s.value >= 0
    assert through_zero.overhead_s.low == 0
    assert through_zero.step_time_s(1).low >= 0


def test_a_bent_curve_is_interpolated():
    def bent(size: int) -> float:
        return A + B * size + (2 * B * (size - 64) if size > 64 else 0.0)

    curve = fit_step_time(draw(np.random.default_rng(0), noise=0.01, curve=bent))
    assert curve.fit == "piecewise"
    assert curve.knots == SIZES
    for size in (1, 2, 20, 64, 100, 200, 256, 400):
        found = curve.step_time_s(size)
        assert found.value == pytest.approx(bent(size), rel=0.04)
        assert found.low <= found.value <= found.high
    best = max(size / bent(size) for size in SIZES)
    assert curve.knee / bent(curve.knee) >= 0.93 * best


def test_a_loaded_machine_moves_the_knee_by_at_most_one_power_of_two():
    rng = np.random.default_rng(0)
    knees = np.array([fit_step_time(draw(rng, disturbed=0.3)).knee for _ in range(100)])
    # All three repeats of the largest size are slow in 0.3**3 of the draws; nothing in the times tells that from a bend.
    assert ((knees >= KNEE / 2) & (knees <= KNEE * 2)).mean() >= 0.94
    assert np.median(knees) == pytest.approx(KNEE, rel=0.1)


def test_spread_is_that_of_one_repeat():
    rng = np.random.default_rng(0)
    times = [np.exp(0.2 * rng.standard_normal(5)).tolist() for _ in range(400)]
    assert robust_spread(times) == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize(
    ("repeats", "message"),
    [
        ({4: [1.0, 1.0]}, "at least 2 batch sizes"),
        ({4: [1.0], 8: [1.0]}, "a time for each size and 2 for one"),
        ({4: [1.0, 1.0], 8: []}, "a time for each size and 2 for one"),
        ({4: [1.0, 0.0], 8: [1.0]}, "positive and finite, got .* at batch size 4"),
        ({0: [1.0, 1.0], 8: [1.0]}, "batch size must be an integer of at least 1"),
    ],
)
def test_bad_repeats_are_refused(repeats, message):
    with pytest.raises(InputError, match=message):
        fit_step_time(repeats)


def test_predictions_need_a_positive_size():
    curve = fit_step_time({1: [1.0, 1.0], 2: [1.5, 1.5]})
    with pytest.raises(InputError, match="batch_size must be a finite number and above 0"):
        curve.step_time_s(0)
