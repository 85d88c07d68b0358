"""Exponents of the theory against its recurrences, and the rules for arguments."""

import itertools

import pytest

from batchwright.capacity import multi_step_exponents, predict, smoothing
from batchwright.core.errors import InputError


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_scaling_in_the_dimension(alpha):
    for optimizer, exponent in (
        ("sgd", 1 / (2 * alpha)),
        ("muon", 1 + 1 / (2 * alpha)),
        ("newton", 1 + 1 / (2 * alpha)),
    ):
        one, two = (
            predict(dim=128, alpha=alpha, optimizer=optimizer),
            predict(dim=256, alpha=alpha, optimizer=optimizer),
        )
        assert two.recovered / one.recovered == pytest.approx(2**exponent)
        assert two.critical_batch_size / one.critical_batch_size == pytest.approx(2 ** (alpha * exponent))
        assert two.missed_mass / one.missed_mass == pytest.approx(2 ** (-(alpha - 1) * exponent))
        assert one.limited_by == "dimension"
    assert predict(dim=128, alpha=alpha).critical_batch_exponent == pytest.approx(0.5)
    assert predict(dim=128, alpha=alpha, optimizer="muon").critical_batch_exponent == pytest.approx(alpha + 0.5)


def test_a_batch_limits_what_is_stored_up_to_the_critical_size():
    whole = predict(dim=96, alpha=1.5, optimizer="muon")
    assert whole.critical_batch_size == pytest.approx(9216)
    small = predict(dim=96, alpha=1.5, batch_size=512, optimizer="muon")
    assert small.recovered == pytest.approx(512 ** (1 / 1.5))
    assert small.limited_by == "batch"
    large = predict(dim=96, alpha=1.5, batch_size=20_000, optimizer="muon")
    assert large.recovered == whole.recovered
    assert small.smoothing == pytest.approx(1 / 512)
    assert whole.smoothing == pytest.approx(96**-1.5)
    assert predict(dim=96, alpha=1.5, batch_size=512).smoothing is None


def test_smoothing_with_the_logs_of_the_analysis():
    import math

    log = math.log(64)
    assert smoothing(64, 2.0, logs=True) == pytest.approx(log**6 / 64**2)
    assert smoothing(64, 2.0, 10, logs=True) == pytest.approx(max(log**6 / 64**2, log**2 / 10))


def test_many_steps_follow_the_recurrence():
    """The closed form 2 - (1 - g)^t for Muon, and m' = m (d^2/m)^g once m >= d for both."""
    gain = 1 / 3
    muon = multi_step_exponents(1.5, 6, "muon")
    assert muon == pytest.approx([2 - (1 - gain) ** t for t in range(1, 7)])
    sgd = multi_step_exponents(1.5, 8)
    assert sgd[:3] == pytest.approx([gain, 2 * gain, 1.0])
    for before, after in itertools.pairwise(sgd[2:]):
        assert after == pytest.approx(before + gain * (2 - before))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"alpha": 1.0}, "alpha must be a finite number and above 1, got 1.0"),
        ({"optimizer": "adam"}, "optimizer must be one of muon, newton, sgd, got 'adam'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        predict(**{"dim": 64, "alpha": 2.0, **arguments})
