"""Every controller of the registry keeps its promises; the noise-scale one follows, holds still and stays in bounds."""

import itertools
import json
import math

import numpy as np
import pytest

from batchwright.adapt import REGISTRY, Fixed, Measured, NoiseScale
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval


def measured(step: int, batch_size: int, low: float, value: float, high: float) -> Measured:
    return Measured(
        step=step,
        num_examples=step * batch_size,
        batch_size=batch_size,
        noise_scale=Interval(value=value, low=low, high=high),
    )


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_battery_state_is_json_and_updates_are_pure(name):
    controller, rng = REGISTRY[name](), np.random.default_rng(0)
    state, batch_size = controller.init(batch_size=32), 32
    for step in range(1, 200):
        noise = float(rng.lognormal(6, 1))
        now = measured(step, batch_size, noise / 2, noise, math.inf if step % 7 == 0 else noise * 2)
        before = json.dumps(state)
        first, second = controller.update(state, now), controller.update(json.loads(before), now)
        assert json.dumps(state) == before
        assert first == second
        state, decision = first
        assert isinstance(decision.batch_size, int)
        assert decision.batch_size >= 1
        assert decision.changed == (decision.batch_size != batch_size)
        assert decision.reason
        batch_size = decision.batch_size


def test_fixed_never_moves():
    assert Fixed().update({}, measured(5, 48, 1e5, 1e6, 1e7))[1].batch_size == 48
    assert not Fixed().needs


def follow(controller: NoiseScale, noise: Interval, batch_size: int = 32, steps: int = 400) -> list[int]:
    state, sizes = controller.init(batch_size=batch_size), [batch_size]
    for step in range(1, steps):
        now = Measured(step=step, num_examples=0, batch_size=sizes[-1], noise_scale=noise)
        state, decision = controller.update(state, now)
        sizes.append(decision.batch_size)
    return sizes


def test_it_grows_to_the_fraction_and_stays():
    sizes = follow(NoiseScale(fraction=0.5), Interval(value=2000.0, low=1800.0, high=2200.0))
    assert sizes[-1] == 1024
    assert sizes == sorted(sizes)
    assert sum(a != b for a, b in itertools.pairwise(sizes)) == 5


def test_it_shrinks_when_the_noise_scale_is_small():
    assert follow(NoiseScale(), Interval(value=40.0, low=35.0, high=45.0), batch_size=512)[-1] == 16


def test_an_interval_that_holds_the_present_size_moves_nothing():
    assert set(follow(NoiseScale(fraction=1.0), Interval(value=300.0, low=30.0, high=3000.0), batch_size=64)) == {64}


def test_it_acts_on_the_lower_end_of_an_unresolved_noise_scale():
    sizes = follow(NoiseScale(fraction=1.0, max_batch_size=4096), Interval(value=math.inf, low=500.0, high=math.inf))
    assert sizes[-1] == 512


def test_bounds_and_cooldown_hold():
    controller = NoiseScale(max_batch_size=100, min_batch_size=8, cooldown=50)
    sizes = follow(controller, Interval(value=1e6, low=9e5, high=2e6))
    assert sizes[-1] == 64
    assert sizes[:50] == [32] * 50
    assert follow(controller, Interval(value=1.0, low=0.5, high=2.0))[-1] == 8


def test_options_are_checked():
    with pytest.raises(InputError, match="max_batch_size must be at least min_batch_size"):
        NoiseScale(min_batch_size=64, max_batch_size=32)
    with pytest.raises(InputError, match="hysteresis must be"):
        NoiseScale(hysteresis=0.5)
    with pytest.raises(InputError, match="fraction must be"):
        NoiseScale(fraction=0.0)
