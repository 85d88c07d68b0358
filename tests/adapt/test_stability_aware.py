"""The wrapper never takes a change across the threshold, lets stabilising ones through, and waits where nothing is measured."""

import dataclasses

import numpy as np
import pytest

from batchwright.adapt import (
    Decision,
    Fixed,
    Geometric,
    Measured,
    NoiseScale,
    StabilityAware,
    check_optimizer,
    parse_policy,
)
from batchwright.adapt import stability_aware as module
from batchwright.adapt.stability_aware import load
from batchwright.core.errors import InputError

GAUGE = {
    "batch_sharpness": 14.0,
    "batch_sharpness_error": 0.0,
    "mean_curvature": 4.0,
    "lambda_max": 8.0,
    "stability_low": 20.0,
    "stability_high": 40.0,
}


def reading(batch_size=64, **changes) -> Measured:
    return Measured(step=100, num_examples=6400, batch_size=batch_size, **{**GAUGE, **changes})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wants:
    """Always asks for one size and lr factor."""

    batch_size: int
    lr_factor: float | None = None
    needs: frozenset[str] = frozenset()

    def init(self, *, batch_size):
        return {}

    def update(self, state, measured):
        changed = self.batch_size != measured.batch_size
        return state, Decision(
            batch_size=self.batch_size, changed=changed, reason="it is wanted", lr_factor=self.lr_factor
        )


@pytest.fixture
def wrapped(monkeypatch):
    monkeypatch.setattr(module, "PLAIN", {"wants": Wants})

    def decide(measured, batch_size, lr_factor=None, **options):
        controller = StabilityAware(
            inner="wants", options={"batch_size": batch_size, "lr_factor": lr_factor}, **options
        )
        return controller.update(controller.init(batch_size=measured.batch_size), measured)[1]

    return decide


def test_the_load_is_the_boundary_of_heavy_ball():
    # eta < 1 / (lambda / (2 (1 + b)) + noise / (2 (1 - b))), so eta over that edge is the load.
    eta, momentum, mean, sharpness = 0.05, 0.6, 5.0, 12.0
    edge = 1 / (mean / (2 * (1 + momentum)) + (sharpness - mean) / (2 * (1 - momentum)))
    found = reading(
        batch_sharpness=sharpness,
        mean_curvature=mean,
        lambda_max=None,
        stability_low=2 * (1 - momentum) / eta,
        stability_high=2 * (1 + momentum) / eta,
    )
    assert load(found) == pytest.approx(eta / edge)
    assert load(found, lr_ratio=edge / eta) == pytest.approx(1.0)


def test_the_load_moves_with_batch_size_and_lr():
    assert load(reading()) == pytest.approx(4 / 40 + 10 / 20)
    assert load(reading(), batch_ratio=2.0) == pytest.approx(4 / 40 + 10 / 40)
    assert load(reading(), batch_ratio=0.5, lr_ratio=0.5) == pytest.approx(0.5 * (4 / 40 + 10 / 10))
    assert load(reading(batch_sharpness_error=1.0)) == pytest.approx(4 / 40 + 12 / 20)
    assert load(reading(lambda_max=60.0)) == pytest.approx(60 / 40)


def test_an_unmeasured_mean_curvature_counts_as_whatever_is_worst():
    for batch_ratio in (0.25, 1.0, 2.0, 8.0):
        worst = max(load(reading(mean_curvature=mean), batch_ratio=batch_ratio) for mean in np.linspace(0, 8, 50))
        assert load(reading(mean_curvature=None), batch_ratio=batch_ratio) == pytest.approx(worst)


def test_stabilising_changes_are_let_through_even_unmeasured(wrapped):
    bare = Measured(step=1, num_examples=64, batch_size=64)
    for measured in (bare, reading(), reading(batch_sharpness=500.0)):
        assert wrapped(measured, 256).batch_size == 256
        assert wrapped(measured, 64, 0.5).lr_factor == 0.5


def test_destabilising_changes_wait_until_the_sharpness_is_measured(wrapped):
    bare = Measured(step=1, num_examples=64, batch_size=64)
    found = wrapped(bare, 32)
    assert not found.changed
    assert found.batch_size == 64
    assert "waits until the stability is measured" in found.reason
    assert wrapped(bare, 64, 2.0).lr_factor == 1.0


def test_a_smaller_batch_is_taken_below_the_threshold_and_refused_above_it(wrapped):
    assert wrapped(reading(), 40).batch_size == 40  # load 0.9
    refused = wrapped(reading(), 32)  # load 1.1
    assert refused.batch_size == 64
    assert "1.1 of the stability threshold, over the limit of 1" in refused.reason
    assert wrapped(reading(), 40, limit=0.8).batch_size == 64


def test_an_lr_is_raised_only_to_the_threshold(wrapped):
    assert wrapped(reading(), 64, 1.5).lr_factor == 1.5  # load 0.9
    assert wrapped(reading(), 64, 4.0).lr_factor == pytest.approx(1 / 0.6)
    grown = wrapped(reading(), 128, 4.0)  # load 0.35 before the lr
    assert grown.batch_size == 128
    assert grown.lr_factor == pytest.approx(1 / 0.35)
    # Over the edge already: never further, but not pulled back either.
    assert wrapped(reading(batch_sharpness=40.0), 64, 2.0).lr_factor == 1.0


def test_the_rule_of_the_lr_is_part_of_the_change(wrapped):
    assert wrapped(reading(), 128).lr_factor == 1.0
    assert wrapped(reading(), 128, lr_rule="square-root").lr_factor == pytest.approx(2**0.5)
    assert wrapped(reading(), 256, lr_rule="linear").lr_factor == pytest.approx(4.0)  # load 0.225 * 4
    assert wrapped(reading(), 1024, lr_rule="linear").lr_factor == pytest.approx(
        5.0
    )  # 16, but lambda_max is 1/5 of high
    found = wrapped(reading(lambda_max=None), 1024, lr_rule="linear")
    assert found.lr_factor == pytest.approx(1 / (0.1 + 0.5 / 16))


def test_no_decision_leads_across_the_threshold(wrapped):
    rng = np.random.default_rng(0)
    for _ in range(500):
        sharpness = float(rng.lognormal(2.5, 0.7))
        measured = reading(
            batch_size=int(rng.integers(2, 500)),
            batch_sharpness=sharpness,
            mean_curvature=None if rng.random() < 0.3 else sharpness * float(rng.random()),
            lambda_max=None if rng.random() < 0.3 else sharpness * float(rng.random()),
        )
        found = wrapped(measured, int(rng.integers(1, 1000)), float(rng.lognormal(0, 1)))
        after = load(measured, batch_ratio=found.batch_size / measured.batch_size, lr_ratio=found.lr_factor)
        assert after <= max(1.0, load(measured)) * (1 + 1e-12)


def test_the_wrapped_controller_is_kept_by_name_and_options():
    by_value = StabilityAware(inner=NoiseScale(max_batch_size=512))
    assert by_value.inner == "noise-scale"
    assert by_value == StabilityAware(inner="noise-scale", options=dataclasses.asdict(NoiseScale(max_batch_size=512)))
    assert by_value.controller() == NoiseScale(max_batch_size=512)
    assert by_value.needs > {"noise_scale", "batch_sharpness"}
    read = parse_policy("stability-aware:geometric", ["options.every=20k", "limit=0.9"])
    assert read.controller() == Geometric(every=20_000)
    assert read.limit == 0.9


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(InputError, match="inner must be one of"):
        StabilityAware(inner=StabilityAware())
    with pytest.raises(InputError, match="inner must be one of"):
        StabilityAware(inner=Fixed(), options={"a": 1})
    with pytest.raises(InputError, match="options must be those of noise-scale"):
        StabilityAware(inner="noise-scale", options={"speed": 3})
    with pytest.raises(InputError, match="stability-aware must go with SGD, got adamw"):
        check_optimizer(StabilityAware(), "adamw")
    with pytest.raises(InputError, match="plain SGD, got sgd with momentum"):
        check_optimizer(StabilityAware(inner="cabs"), "sgd", momentum=0.9)
    check_optimizer(StabilityAware(), "sgd", momentum=0.9)
