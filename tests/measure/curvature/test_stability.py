"""The gauge gives the published levels, and does not claim what it cannot know."""

import math

import pytest

from batchwright import measure
from batchwright.core.errors import InputError
from batchwright.measure.curvature.batch_sharpness import BatchSharpness
from batchwright.measure.curvature.edge_level import edge_level, load
from batchwright.measure.curvature.mean_square import max_stable_lr
from batchwright.measure.curvature.stability import stability


def measured(value: float, half: float, batch_size: int = 4) -> BatchSharpness:
    return BatchSharpness(
        value=value,
        standard_error=half / 2,
        low=value - half,
        high=value + half,
        num_batches=100,
        num_examples=100 * batch_size,
        num_zero_gradients=0,
        converged=True,
        level=0.95,
        method="exact",
    )


def test_levels_are_those_of_the_paper():
    found = measure.stability(lr=0.1, momentum=0.8, batch_sharpness=1.0, nesterov=False)
    assert (found.low, found.high) == pytest.approx((4, 36))
    nesterov = measure.stability(lr=0.1, momentum=0.8, batch_sharpness=1.0, nesterov=True)
    assert (nesterov.low, nesterov.high) == pytest.approx((4, 2 * 1.8 / 2.6 / 0.1))
    averaged = stability(lr=0.1, momentum=0.9, batch_sharpness=1.0, form="ema")
    assert (averaged.low, averaged.high) == pytest.approx((2 / 0.1, 38 / 0.1))


@pytest.mark.parametrize(
    ("value", "regime"),
    [(5.0, "stable"), (11.0, "between the thresholds"), (29.0, "between the thresholds"), (40.0, "unstable")],
)
def test_batch_sharpness_alone_leaves_the_middle_open(value, regime):
    assert stability(lr=0.1, momentum=0.5, batch_sharpness=value).regime == regime


@pytest.mark.parametrize(("value", "regime"), [(17.0, "stable"), (19.0, "at the edge"), (23.0, "unstable")])
def test_without_momentum_there_is_one_level(value, regime):
    assert stability(lr=0.1, momentum=0.0, batch_sharpness=value).regime == regime


def test_a_full_batch_meets_the_upper_level():
    assert (
        stability(lr=0.1, momentum=0.5, batch_sharpness=29.98, batch_size=512, num_examples=512).regime == "at the edge"
    )
    assert stability(lr=0.1, momentum=0.5, batch_sharpness=20.0, batch_size=512, num_examples=512).regime == "stable"


def test_the_mean_curvature_settles_the_level():
    """Numbers of a small network at batch 4: batch sharpness 9.4, interaction-aware 0.96."""
    alone = stability(lr=0.1, momentum=0.5, batch_sharpness=9.4)
    settled = stability(lr=0.1, momentum=0.5, batch_sharpness=9.4, mean_curvature=0.96)
    assert alone.regime == "between the thresholds"
    assert settled.threshold_low == settled.threshold_high
    assert settled.regime == "stable" if settled.headroom > 0.1 else "at the edge"
    assert settled.threshold == pytest.approx(1 / (0.96 / 9.4 / 30 + (1 - 0.96 / 9.4) / 10))


def test_the_largest_eigenvalue_narrows_the_level_and_is_a_limit_itself():
    narrowed = stability(lr=0.1, momentum=0.5, batch_sharpness=9.4, sharpness=3.4)
    assert 10 == narrowed.threshold_low < narrowed.threshold_high < 14
    assert stability(lr=0.1, momentum=0.5, batch_sharpness=5.0, sharpness=40.0).regime == "unstable"


def test_an_interval_is_carried_into_the_headroom():
    found = stability(lr=0.1, momentum=0.0, batch_sharpness=measured(10.0, 2.0))
    assert (found.headroom_low, found.headroom, found.headroom_high) == pytest.approx((0.4, 0.5, 0.6))
    assert found.regime == "stable"
    assert stability(lr=0.1, batch_sharpness=measured(19.0, 6.0)).regime == "not resolved"


def test_one_batch_without_an_error_settles_nothing():
    assert stability(lr=0.1, batch_sharpness=measured(10.0, math.inf)).regime == "not resolved"


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_level_and_load_are_the_mean_square_boundary(nesterov, share):
    level = edge_level(lr=0.05, noise_share=share, momentum=0.7, nesterov=nesterov)
    mean, noise = (1 - share) * level, share * level
    assert load(lr=0.05, mean_curvature=mean, noise_curvature=noise, momentum=0.7, nesterov=nesterov) == pytest.approx(
        1.0
    )
    if mean > 0:
        edge = max_stable_lr(curvature_mean=mean, curvature_variance=noise * mean, momentum=0.7, nesterov=nesterov)
        assert edge == pytest.approx(0.05)


def test_errors_name_the_argument():
    with pytest.raises(InputError, match="batch_size must be at most num_examples, got 600 and 512"):
        stability(lr=0.1, batch_sharpness=1.0, batch_size=600, num_examples=512)
    with pytest.raises(InputError, match="lr must be a finite number and above 0"):
        stability(lr=0.0, batch_sharpness=1.0)
