"""The laws meet their limits."""

import math

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.planning.choose import choose
from batchwright.planning.kappa import KappaMeasurement, KappaTable, combine, kappa_prior
from batchwright.planning.laws import (
    examples_ratio,
    fastest_batch_size,
    keep_half_life,
    power_of_two,
    scale_lr,
    steps_ratio,
)
from batchwright.planning.log_normal import inverse, product


def test_steps_times_batch_size_are_examples():
    for batch_size in (1, 10, 300):
        # Both are relative to their own limit, and the limits differ by the factor B_crit.
        assert steps_ratio(batch_size, 50) * batch_size / 50 == pytest.approx(examples_ratio(batch_size, 50))


def test_fastest_batch_size_minimises_the_time():
    sizes = np.arange(1, 5000)
    times = (1 + 400 / sizes) * (0.003 + 0.00002 * sizes)
    assert fastest_batch_size(400, 0.003, 0.00002) == pytest.approx(sizes[times.argmin()], abs=1)
    assert fastest_batch_size(400, 0.003, 0.0) == math.inf


def test_gain_rule_is_linear_below_and_constant_above_the_critical_size():
    settings = {"base_batch_size": 1, "critical_batch_size": 1e6}
    assert scale_lr("sgd", 0.1, batch_size=8, **settings) == pytest.approx(0.8, rel=1e-4)
    assert scale_lr("sgd", 0.1, batch_size=10**9, **settings) == pytest.approx(0.1 * (1 + 1e6), rel=2e-3)
    assert scale_lr("sgd", 0.1, base_batch_size=32, batch_size=32, critical_batch_size=77) == pytest.approx(0.1)
    assert scale_lr("sgd", 0.1, base_batch_size=32, batch_size=64, critical_batch_size=math.inf) == pytest.approx(0.2)


def test_adam_follows_the_root_up_to_the_critical_size():
    settings = {"base_batch_size": 16, "critical_batch_size": 64}
    assert scale_lr("adamw", 1e-3, batch_size=64, **settings) == pytest.approx(2e-3)
    assert scale_lr("adam", 1e-3, batch_size=1024, **settings) == pytest.approx(2e-3)
    assert scale_lr("adam", 1e-3, batch_size=4, **settings) == pytest.approx(5e-4)
    with pytest.raises(InputError, match="optimizer must be one of"):
        scale_lr("lion", 1e-3, batch_size=4, **settings)


def test_half_life_in_examples_is_kept():
    scaled = keep_half_life(0.999, base_batch_size=32, batch_size=256)
    assert math.log(0.5) / math.log(scaled) * 256 == pytest.approx(math.log(0.5) / math.log(0.999) * 32)


def test_power_of_two_keeps_its_bounds():
    assert [power_of_two(value) for value in (0.3, 1, 2.9, 3, 90, 91)] == [1, 1, 4, 4, 64, 128]
    assert power_of_two(5000, at_most=1437) == 1024
    assert power_of_two(3, at_least=8) == 8
    assert power_of_two(90, at_least=90, at_most=100) == 90


TRUE = {"critical": 400.0, "a": 0.003, "b": 0.00002}


def choice(objective: str, width: float = 1.5, **changes):
    settings = {
        "critical_batch_size": Interval(value=400.0, low=400 / width, high=400 * width),
        "step_time_s": lambda sizes: TRUE["a"] + TRUE["b"] * sizes,
        "step_time_error": 0.0,
        "flat_until": 15,
        "max_batch_size": 10_000,
        "rng": np.random.default_rng(0),
    }
    return choose(objective, **{**settings, **changes})


def test_objectives_ask_for_what_they_say():
    fastest = fastest_batch_size(TRUE["critical"], TRUE["a"], TRUE["b"])
    assert choice("time").wanted.value == pytest.approx(fastest, rel=0.06)
    assert choice("time").batch_size == 256
    assert choice("balanced").wanted.value == pytest.approx(80, rel=0.01)
    assert choice("examples").wanted.value == 15
    # A device on which an example costs much: the fastest size is below the 20 % size, and "balanced" stops there.
    slow = choice("balanced", step_time_s=lambda sizes: 0.0001 + 0.001 * sizes)
    assert slow.wanted.value == pytest.approx(fastest_batch_size(400, 0.0001, 0.001), rel=0.3)
    assert "fastest size" in slow.reason
    assert choice("time", max_batch_size=64).batch_size == 64


def test_a_reason_names_the_size_it_was_rounded_to():
    found = choice("balanced")
    assert (round(found.wanted.value), found.batch_size) == (80, 64)
    assert found.reason.endswith("; 64 is the nearest power of two")
    assert choice("balanced", max_batch_size=60).reason.endswith("; 32 is the largest power of two allowed")
    assert "power of two" not in choice("time", max_batch_size=64).reason


def test_a_device_that_is_all_overhead_does_not_ask_for_the_whole_data_set():
    found = choice("time", step_time_s=lambda sizes: 0.003 + 1e-9 * sizes)
    assert found.wanted.value == pytest.approx(4 * 400)
    assert found.excess_time.value < 0.25
    assert "beyond 4 critical sizes" in found.reason


def test_wide_kappa_widens_the_size_by_its_root_and_hardly_costs_time():
    narrow, wide = choice("time", width=1.1), choice("time", width=4.0)
    assert wide.wanted.high / wide.wanted.low > narrow.wanted.high / narrow.wanted.low
    assert wide.wanted.high / wide.wanted.low == pytest.approx(4.0, rel=0.15)  # the square root of a factor of 16
    # design: the minimum is flat. Wrong by 4 in kappa costs about 7 % where the size is the optimum of the centre.
    assert wide.excess_time.high < 0.25
    assert min(each.value for each in wide.time) == pytest.approx(1.0, abs=0.01)


def test_product_and_inverse_of_intervals():
    left, right = Interval(value=10.0, low=5.0, high=20.0), Interval(value=2.0, low=1.0, high=4.0)
    found = product(left, right)
    assert found.value == 20
    assert found.high == pytest.approx(20 * 2**2**0.5)
    assert product(left, Interval(value=2.0, low=0.0, high=math.inf)).high == math.inf
    assert inverse(left) == Interval(value=0.1, low=0.05, high=0.2)


def rows(*values: float) -> KappaTable:
    return KappaTable(
        command="",
        date="",
        measurements=tuple(
            KappaMeasurement(
                task=f"task-{number}",
                optimizer="sgd",
                kappa=Interval(value=value, low=value, high=value),
                critical_batch_size=value,
                noise_scale=1.0,
            )
            for number, value in enumerate(values)
        ),
    )


def test_prior_is_predictive_and_can_leave_a_task_out():
    prior = kappa_prior(rows(1.0, 2.0, 4.0))
    assert prior.value == pytest.approx(2.0)
    assert prior.low < 1.0 < 4.0 < prior.high
    assert kappa_prior(rows(1.0, 2.0, 4.0), exclude="task-2").value == pytest.approx(2**0.5)


def test_the_shipped_table_gives_a_prior():
    prior = kappa_prior()
    assert 0 < prior.low < prior.value < prior.high < math.inf


def test_combining_goes_to_the_sharper_one():
    prior = Interval(value=2.0, low=0.5, high=8.0)
    sharp = Interval(value=6.0, low=5.0, high=7.2)
    found = combine(prior, sharp)
    assert 5.0 < found.value < 6.0
    assert found.high / found.low < prior.high / prior.low
    assert combine(prior, Interval(value=6.0, low=0.0, high=math.inf)) == prior
