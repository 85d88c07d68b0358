"""Predictions of a change meet the exact second moments of one noisy curvature, and the interventions of the paper's spec."""

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.measure.curvature.batch_sharpness import BatchSharpness
from batchwright.measure.curvature.mean_square import second_moment_growth
from batchwright.measure.curvature.what_if import StepSettings, what_if

NOW = StepSettings(lr=0.1, momentum=0.5, batch_size=4)
# A small network at a plateau near 2(1-b)/lr = 10; its largest eigenvalue is 3.4, the full Hessian along batch gradients 0.96.
MEASURED = 9.4


def random_case(rng: np.random.Generator) -> tuple[StepSettings, StepSettings, float, float]:
    """Settings before and after, mean curvature and per-example variance; stable before."""
    while True:
        mean, variance = 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-1, 3)
        before, after = (
            StepSettings(
                lr=10 ** rng.uniform(-3, 0.5),
                momentum=float(rng.choice([0.0, 0.5, 0.9])),
                batch_size=int(rng.choice([1, 4, 16, 64])),
                nesterov=bool(rng.integers(2)),
            )
            for _ in range(2)
        )
        if growth(before, mean, variance) < 1:
            return before, after, mean, variance


def growth(settings: StepSettings, mean: float, variance: float, num_examples: int | None = None) -> float:
    size = settings.batch_size
    rest = 1.0 if num_examples is None else (num_examples - size) / (num_examples - 1)
    return second_moment_growth(
        lr=settings.lr,
        curvature_mean=mean,
        curvature_variance=variance / size * rest,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
    )


@pytest.mark.parametrize("num_examples", [None, 64, 500])
def test_load_after_is_above_one_exactly_where_the_second_moments_grow(num_examples):
    rng, outcomes = np.random.default_rng(0), set()
    for _ in range(150):
        before, after, mean, variance = random_case(rng)
        rest = 1.0 if num_examples is None else (num_examples - before.batch_size) / (num_examples - 1)
        if rest == 0:
            continue  # a full batch shows no noise to be carried on
        noise = variance / before.batch_size * rest / mean
        change = {name: getattr(after, name) for name in ("lr", "momentum", "batch_size", "nesterov")}
        found = what_if(before, change, batch_sharpness=mean + noise, mean_curvature=mean, num_examples=num_examples)
        grows = growth(after, mean, variance, num_examples) > 1
        assert (found.load_after > 1) is grows
        if grows:
            assert found.outcome != "safe"
        outcomes.add(found.outcome)
    assert {"safe", "catapult"} <= outcomes


@pytest.mark.parametrize(
    "change", [{"lr": 0.15}, {"lr": 0.2}, {"batch_size": 2}, {"momentum": 0.8}, {"lr": 0.15, "batch_size": 2}]
)
@pytest.mark.parametrize("known", [{}, {"sharpness": 3.4}, {"mean_curvature": 0.96}])
def test_destabilising_changes_at_the_plateau_spike(change, known):
    found = what_if(NOW, change, batch_sharpness=MEASURED, num_examples=512, **known)
    assert found.spike
    assert found.outcome == ("catapult" if "mean_curvature" in known else found.outcome)
    assert found.outcome != "safe"
    assert found.load_after > found.load_before


@pytest.mark.parametrize("change", [{"lr": 0.06}, {"momentum": 0.2}, {"batch_size": 16}, {"batch_size": 512}])
@pytest.mark.parametrize("known", [{}, {"sharpness": 3.4}, {"mean_curvature": 0.96}])
def test_stabilising_changes_are_safe_whatever_is_known(change, known):
    found = what_if(NOW, change, batch_sharpness=MEASURED, num_examples=512, **known)
    assert not found.spike
    assert found.outcome == "safe"


def test_a_net_below_its_edge_stands_a_small_increase():
    assert what_if(NOW, {"lr": 0.15}, batch_sharpness=5.0).outcome == "safe"
    assert what_if(NOW, {"lr": 0.25}, batch_sharpness=5.0).spike


def test_momentum_has_opposite_signs_at_small_and_at_full_batch():
    """Raising it lowers the small-batch level and raises the full-batch one."""
    small = what_if(NOW, {"momentum": 0.8}, batch_sharpness=MEASURED, mean_curvature=0.96)
    full = StepSettings(lr=0.1, momentum=0.5, batch_size=512)
    up = what_if(full, {"momentum": 0.8}, batch_sharpness=29.98, sharpness=29.98, num_examples=512)
    down = what_if(full, {"momentum": 0.2}, batch_sharpness=29.98, sharpness=29.98, num_examples=512)
    assert (small.outcome, up.outcome, down.outcome) == ("catapult", "safe", "catapult")


def test_what_is_raised_and_lowered_at_once_is_weighed():
    """Small-batch stability depends on lr over batch size, so twice both changes little and four times the lr does."""
    same = what_if(NOW, {"lr": 0.2, "batch_size": 8}, batch_sharpness=8.0, mean_curvature=0.2)
    more = what_if(NOW, {"lr": 0.4, "batch_size": 8}, batch_sharpness=8.0, mean_curvature=0.2)
    assert same.load_after == pytest.approx(same.load_before, rel=0.05)
    assert not same.spike
    assert more.spike


def test_thresholds_and_sharpness_after_are_given():
    found = what_if(NOW, {"batch_size": 8}, batch_sharpness=10.0, mean_curvature=2.0)
    assert found.batch_sharpness_after == pytest.approx(2.0 + 8.0 / 2)
    assert found.threshold_before == pytest.approx(1 / (0.2 / 30 + 0.8 / 10))
    assert found.threshold_after == pytest.approx(1 / ((1 / 3) / 30 + (2 / 3) / 10))


def test_other_batch_sizes_settle_the_share():
    mean, noise = 3.0, 28.0
    found = what_if(
        NOW,
        {"batch_size": 2},
        batch_sharpness=mean + noise / 4,
        other_batch_sharpness={1: mean + noise, 8: mean + noise / 8},
    )
    assert found.noise_share == pytest.approx(7 / 10)
    assert found.batch_sharpness_after == pytest.approx(17.0)


def test_a_full_batch_does_not_show_the_noise_of_a_smaller_one():
    full = StepSettings(lr=0.1, momentum=0.5, batch_size=512)
    found = what_if(full, {"batch_size": 64}, batch_sharpness=20.0, num_examples=512)
    assert found.outcome == "not resolved"
    assert found.load_after_high == np.inf
    assert "measure batch sharpness at that size" in found.reason


def test_the_averaging_form_is_converted():
    averaged = StepSettings(lr=0.2, momentum=0.5, batch_size=4, form="ema")
    for change, same in (({"lr": 0.4}, {"lr": 0.2}), ({"momentum": 0.75}, {"momentum": 0.75, "lr": 0.05})):
        found = what_if(averaged, change, batch_sharpness=MEASURED)
        assert found.load_after == pytest.approx(what_if(NOW, same, batch_sharpness=MEASURED).load_after)


def test_errors_name_the_argument():
    with pytest.raises(InputError, match=r"change must name at least one of lr, batch_size, .* got \['beta'\]"):
        what_if(NOW, {"beta": 0.9}, batch_sharpness=1.0)
    with pytest.raises(InputError, match="momentum must be a finite number and at least 0 and below 1, got 1"):
        what_if(NOW, {"momentum": 1.0}, batch_sharpness=1.0)
    with pytest.raises(InputError, match="batch_sharpness must be a finite number and above 0"):
        what_if(NOW, {"lr": 0.2}, batch_sharpness=-1.0)
    with pytest.raises(InputError, match="batch_size must be at most num_examples, got 600 and 512"):
        what_if(NOW, {"batch_size": 600}, batch_sharpness=1.0, num_examples=512)


def test_what_leaves_a_prediction_open_is_what_it_says_to_measure():
    now = StepSettings(lr=0.1, momentum=0.9, batch_size=16)
    scattered = BatchSharpness(
        value=1.94, standard_error=0.38, low=1.12, high=2.95, num_batches=8, num_examples=128, num_zero_gradients=0,
        converged=False, level=0.95, method="exact",
    )  # fmt: skip
    # The share of the noise is measured; what is open is the scatter of eight batches.
    found = what_if(now, {"momentum": 0.95}, batch_sharpness=scattered, mean_curvature=0.08)
    assert found.outcome == "not resolved"
    assert "interval (1.12 to 2.95) is too wide to call it: measure more batches" in found.reason
    assert "interaction-aware" not in found.reason
    # The value is exact; what is open is how much of it is noise.
    found = what_if(now, {"momentum": 0.95}, batch_sharpness=1.94)
    assert found.outcome == "not resolved"
    assert "measure interaction-aware sharpness" in found.reason
    # Both are exact, and the run lands at the edge itself.
    found = what_if(StepSettings(lr=0.1, batch_size=16), {"lr": 0.2}, batch_sharpness=10.5, mean_curvature=0.0)
    assert found.outcome == "not resolved"
    assert "within a tenth of it" in found.reason
