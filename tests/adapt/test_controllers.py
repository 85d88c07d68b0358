"""Every controller of the registry keeps its promises; the noise-scale one follows, holds still and stays in bounds."""

import copy
import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from batchwright.adapt import (
    MEASUREMENTS,
    REGISTRY,
    Controller,
    Decision,
    Fixed,
    Limits,
    Measured,
    NoiseScale,
    parse_policy,
)
from batchwright.adapt.options import example
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval


def measured(step: int, batch_size: int, low: float, value: float, high: float) -> Measured:
    return Measured(
        step=step,
        num_examples=step * batch_size,
        batch_size=batch_size,
        noise_scale=Interval(value=value, low=low, high=high),
    )


def stream(seed: int, length: int) -> list[dict]:
    """Everything that can be measured, at random; now and then a field is missing, infinite or negative."""
    rng, found = np.random.default_rng(seed), []
    for step in range(1, length):
        noise, sharpness = float(rng.lognormal(6, 1)), float(rng.lognormal(2, 0.5))
        fields = {
            "step": step,
            "epoch": step // 20,
            "num_train": 1000,
            "lr": float(rng.uniform(0.01, 0.2)),
            "loss": float(rng.uniform(0, 3)),
            "noise_scale": Interval(value=noise, low=noise / 2, high=math.inf if step % 7 == 0 else noise * 2),
            "trace": float(rng.lognormal(3, 1)),
            "grad_sq_norm": float(rng.normal(0.05, 0.05)),
            "inner_product_variance": float(rng.lognormal(-1, 1)),
            "cosine": float(rng.uniform(-0.1, 1)),
            "diversity": float(rng.lognormal(-1, 1)) if step % 20 == 0 else None,
            "batch_sharpness": sharpness,
            "batch_sharpness_error": 0.1,
            "mean_curvature": sharpness / 3,
            "lambda_max": sharpness / 2,
            "stability_low": 10.0,
            "stability_high": 30.0,
        }
        absent = [name for name in fields if name != "step" and rng.random() < 0.1]
        found.append({**fields, **dict.fromkeys(absent)})
    return found


def drive(
    controller: Controller, fields: list[dict], batch_size: int = 32, *, through_json: bool = False
) -> list[Decision]:
    """Feed a stream to a controller, its batch size and sequence length carried along."""
    state, decisions, used, length = controller.init(batch_size=batch_size), [], 0, 128
    for now in fields:
        used += batch_size
        shown = Measured(
            batch_size=batch_size, num_examples=used, num_tokens=used * length, sequence_length=length, **now
        )
        if through_json:
            state = json.loads(json.dumps(state, allow_nan=False))
        before = copy.deepcopy(state)
        again = controller.update(state, shown)
        assert state == before, "update must not change the state it was given"
        state, decision = controller.update(state, shown)
        assert (state, decision) == again
        assert isinstance(decision.batch_size, int)
        assert decision.batch_size >= 1
        assert decision.changed == (decision.batch_size != batch_size or decision.sequence_length not in (None, length))
        assert decision.lr_factor is None or 0 <= decision.lr_factor < math.inf
        assert decision.reason
        assert "\n" not in decision.reason
        limit = getattr(controller, "max_batch_size", None)
        assert limit is None or decision.batch_size <= limit
        assert decision.batch_size >= getattr(controller, "min_batch_size", 1)
        decisions.append(decision)
        batch_size, length = decision.batch_size, decision.sequence_length or length
    return decisions


ALL = {name: example(name) for name in sorted(REGISTRY)}


@pytest.mark.parametrize("text", [*ALL.values(), "geometric:1k", "restarted-budget:100k 10M", "seesaw:1k:0.5 4k:0.1"])
def test_battery_updates_are_pure_bounded_and_survive_json_at_every_step(text):
    controller = parse_policy(text)
    assert isinstance(controller, Controller)
    assert controller.needs <= MEASUREMENTS
    for seed in range(2):
        fields = stream(seed, 110)
        assert drive(controller, fields) == drive(controller, fields, through_json=True)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_battery_options_go_through_json(name):
    controller = parse_policy(example(name))
    options = json.loads(json.dumps(asdict(controller), allow_nan=False))
    assert REGISTRY[name](**options) == controller


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_battery_nothing_measured_means_nothing_changes_beyond_its_clock(name):
    controller = parse_policy(example(name))
    if not controller.needs:
        return
    bare = [{"step": step} for step in range(1, 50)]
    state = controller.init(batch_size=32)
    for now in bare:
        state, decision = controller.update(state, Measured(num_examples=0, batch_size=32, **now))
        assert not decision.changed
        assert decision.lr_factor in (None, 1.0)


def limited() -> list[str]:
    return [name for name in sorted(REGISTRY) if issubclass(REGISTRY[name], Limits)]


@pytest.mark.parametrize("name", limited())
@pytest.mark.parametrize("rounding", ["power-of-two", "exact"])
def test_battery_bounds_hold_from_outside_too(name, rounding):
    controller = REGISTRY[name](min_batch_size=24, max_batch_size=100, cooldown=0, rounding=rounding)
    for start in (1, 24, 100, 5000):
        sizes = [decision.batch_size for decision in drive(controller, stream(4, 120), start)]
        assert set(sizes) <= set(range(24, 101))


@pytest.mark.parametrize("rounding", ["power-of-two", "exact"])
@pytest.mark.parametrize("hysteresis", [1.1, 1.25, 2.0])
def test_hysteresis_never_flaps_on_a_wish_that_wanders_by_less_than_its_factor(rounding, hysteresis):
    rng = np.random.default_rng(1)
    for _ in range(60):
        centre = float(rng.uniform(8, 3000))
        wishes = centre * hysteresis ** rng.uniform(0, 0.999, size=40)
        controller = NoiseScale(fraction=1.0, cooldown=0, hysteresis=hysteresis, rounding=rounding)
        fields = [
            {"step": i + 1, "noise_scale": Interval(value=w, low=w, high=w)} for i, w in enumerate(map(float, wishes))
        ]
        start = int(rng.integers(1, 4000))
        sizes = [start, *(decision.batch_size for decision in drive(controller, fields, start))]
        moves = [b - a for a, b in itertools.pairwise(sizes) if a != b]
        assert all(move > 0 for move in moves) or all(move < 0 for move in moves), (centre, sizes)


def test_without_hysteresis_the_same_wishes_do_flap():
    fields = [{"step": i + 1, "noise_scale": Interval(value=w, low=w, high=w)} for i, w in enumerate([85.0, 95.0] * 20)]
    sizes = [d.batch_size for d in drive(NoiseScale(fraction=1.0, cooldown=0, hysteresis=1.0), fields, 64)]
    assert {64, 128} == set(sizes)
    assert sizes.count(64) > 5


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


def test_a_large_noise_scale_is_told_without_an_exponent():
    _, decision = NoiseScale().update(
        NoiseScale().init(batch_size=64), measured(100, 64, low=1610.0, value=5214.0, high=math.inf)
    )
    assert decision.reason.startswith("noise scale 5,214 (1,610 to inf) asks for 0.5 of it")
