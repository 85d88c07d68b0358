"""The law of a sweep: exact on its own curve, and its interval covers."""

import math

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.training.sweep import Trial
from batchwright.training.sweep_fit import critical_batch_size, critical_interval, fit, jackknifed, table_of

SIZES = np.array([8.0, 32.0, 128.0, 512.0])


def law(critical: float, min_steps: float = 100.0) -> np.ndarray:
    """Examples to the target at each of the sizes."""
    return min_steps * critical * (1 + SIZES / critical)


@pytest.mark.parametrize("critical", [10.0, 64.0, 1000.0])
def test_a_law_is_found_back(critical):
    found = fit(SIZES, law(critical)[:, None, None])
    # The search is over a grid of a thousand points to a factor of 4096, 0.8 % apart.
    assert found.critical_batch_size == pytest.approx(critical, rel=0.01)
    assert found.min_steps == pytest.approx(100.0, rel=0.01)
    assert found.steps(32) == pytest.approx(100.0 * (1 + critical / 32), rel=0.01)


def test_the_best_lr_counts_and_what_never_got_there_does_not():
    examples = np.stack([law(64.0) * 3, law(64.0), np.full(4, math.inf)], axis=1)[:, :, None]
    assert fit(SIZES, examples).critical_batch_size == pytest.approx(64.0, rel=0.01)
    examples[3] = math.inf
    assert fit(SIZES, examples).critical_batch_size == pytest.approx(64.0, rel=0.01)
    with pytest.raises(InputError, match="at least 2 batch sizes that got to the target, got 1"):
        fit(SIZES, np.where(SIZES[:, None, None] > 8, math.inf, examples))


def test_the_interval_covers_as_it_says():
    rng = np.random.default_rng(0)
    num_draws, seeds, held, widths = 400, 3, 0, []
    for _ in range(num_draws):
        found = critical_interval(SIZES, law(64.0)[:, None] * np.exp(0.1 * rng.standard_normal((4, seeds))))
        held += found.low <= 64.0 <= found.high
        widths.append(math.log(found.high / found.low))
    # Four standard errors of a share of 0.95 in 400 are 0.044.
    assert 0.95 - 0.044 <= held / num_draws <= 1.0
    assert np.median(widths) < math.log(20)


def test_ends_that_were_not_seen_are_open():
    rng = np.random.default_rng(1)
    noise = np.exp(0.02 * rng.standard_normal((4, 3)))
    small, large = (
        critical_interval(SIZES, law(1.0)[:, None] * noise),
        critical_interval(SIZES, law(1e5)[:, None] * noise),
    )
    assert small.low == 0
    assert math.isfinite(small.high)
    assert large.high == math.inf
    assert large.low > 0


def test_the_jackknife_of_a_mean_is_student():
    values = np.array([1.0, 2.0, 4.0])
    left = np.array([np.delete(values, at).mean() for at in range(3)])
    low, high = jackknifed(values.mean(), left)
    half = 4.302652729911275 * values.std(ddof=1) / math.sqrt(3)  # Student's quantile of two degrees of freedom
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_a_sweep_becomes_a_table_without_unfinished_sizes():
    def trial(size: int, lr: float, seed: int, examples: float | None) -> Trial:
        return Trial(
            batch_size=size, lr=lr, seed=seed, reached=examples is not None, steps=None, examples=examples, seconds=None
        )

    trials = [
        trial(size, lr, seed, float(value) * (1 if lr == 0.1 else 2))
        for size, value in zip((8, 32, 128), law(64.0), strict=False)
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    trials.append(trial(512, 0.1, 0, None))
    sizes, examples = table_of(trials)
    assert list(sizes) == [8, 32, 128]
    assert examples.shape == (3, 2, 2)
    found = critical_batch_size(trials, np.random.default_rng(0), num_resamples=20)
    assert found.value == pytest.approx(64.0, rel=0.01)
    assert found.low == found.high
