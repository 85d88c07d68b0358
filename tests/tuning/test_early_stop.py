"""What is foreseen of a trial holds on curves that obey its line, and a trial is stopped only beyond the noise of both."""

import math

import numpy as np
import pytest

from batchwright.tuning.early_stop import foreseen, hopeless
from batchwright.tuning.outcome import Incumbent, Metric, Outcome, Point, best_of

LOSS = Metric(name="loss", scale="log")
BUDGET = 1200


def curve(power: float, level: float, upto: int = 600, noise: float = 0.0, seed: int = 0, error: float = 0.0):
    rng = np.random.default_rng(seed)
    ends = [100 * i for i in range(1, upto // 100 + 1)]
    values = [level * n ** (-power) * math.exp(noise * rng.normal()) for n in ends]
    return [
        Point(num_examples=0, value=2.3),
        *(Point(num_examples=n, value=v, standard_error=error * v) for n, v in zip(ends, values, strict=True)),
    ]


def test_a_power_law_is_foreseen_exactly():
    centre, half = foreseen(curve(0.5, 20.0), BUDGET, LOSS)
    assert centre == pytest.approx(math.log(20.0 * BUDGET**-0.5), abs=1e-9)
    assert half < 1e-6


def test_the_interval_covers_the_end_of_noisy_power_laws():
    missed = 0
    for seed in range(400):
        centre, half = foreseen(curve(0.5, 20.0, noise=0.05, seed=seed), BUDGET, LOSS)
        end = math.log(20.0 * BUDGET**-0.5) + 0.05 * np.random.default_rng(10_000 + seed).normal()
        missed += abs(end - centre) > half
    # 1 % is nominal; four standard errors of a share of 400.
    assert missed / 400 < 0.01 + 4 * math.sqrt(0.01 * 0.99 / 400)


def test_a_trial_that_is_behind_now_and_falls_faster_goes_on():
    steep = curve(1.2, 600.0)  # 0.278 now, 0.121 at the end
    flat = curve(0.1, 0.6)  # 0.317 now, 0.295 at the end
    rival = Incumbent(value=0.2)
    assert steep[-1].value > rival.value
    assert not hopeless(steep, BUDGET, rival, LOSS)
    assert hopeless(flat, BUDGET, rival, LOSS)


def test_noise_of_the_rival_or_of_the_curve_keeps_a_trial_going():
    flat = curve(0.1, 0.6)
    assert not hopeless(flat, BUDGET, Incumbent(value=0.2, standard_error=0.06), LOSS)
    assert not hopeless(curve(0.1, 0.6, error=0.2), BUDGET, Incumbent(value=0.2), LOSS)
    assert not hopeless(curve(0.1, 0.6, noise=0.4), BUDGET, Incumbent(value=0.2), LOSS)


def test_nothing_is_stopped_early_in_its_budget_without_a_rival_or_with_few_points():
    assert not hopeless(curve(0.1, 0.6), BUDGET, None, LOSS)
    assert not hopeless(curve(0.1, 0.6, upto=200), BUDGET, Incumbent(value=0.01), LOSS)
    assert not hopeless(curve(0.1, 0.6), 10 * BUDGET, Incumbent(value=0.01), LOSS)
    assert not hopeless([], BUDGET, Incumbent(value=0.01), LOSS)


def test_where_large_is_good_the_rule_is_the_mirror():
    accuracy = Metric(name="accuracy", direction="above")
    flat = [Point(num_examples=100 * i, value=0.5 + 0.001 * i) for i in range(7)]
    assert hopeless(flat, BUDGET, Incumbent(value=0.9), accuracy)
    assert not hopeless(flat, BUDGET, Incumbent(value=0.4), accuracy)


def test_the_scale_of_a_metric_goes_both_ways():
    for value in (1e-6, 0.3, 40.0):
        assert LOSS.raw(LOSS.seen(value)) == pytest.approx(value)
    assert LOSS.seen(0.0) == math.log(1e-12)
    assert math.isnan(LOSS.seen(math.nan))
    assert LOSS.difference(math.log(2.0)) == "a factor of 2"
    with pytest.raises(ValueError, match=r"scale must be one of linear, log"):
        Metric(scale="square")


def test_the_best_trial_is_one_that_ended():
    from batchwright.tuning.outcome import TuningTrial

    def trial(number: int, status: str, value: float) -> TuningTrial:
        return TuningTrial(id=number, round=0, values={}, seed=0, outcome=Outcome(status=status, value=value))

    trials = [trial(0, "done", 0.4), trial(1, "stopped", 0.1), trial(2, "failed", math.nan), trial(3, "done", 0.3)]
    assert best_of(trials, LOSS).id == 3
    assert best_of(trials[1:3], LOSS) is None
