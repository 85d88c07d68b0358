"""Short runs see the same examples at every setting, and are compared over them."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.measure.short_run import ShortRun, block_means, excess_loss, short_run


def task(**changes) -> bw.Task:
    numbers = torch.arange(64.0)[:, None]
    settings = {
        "name": "numbers",
        "model": lambda: nn.Linear(1, 1, bias=False),
        # The loss of an example is its number; the model gets a gradient that is zero.
        "loss": lambda model, batch: batch[0].squeeze(1) + 0 * model(batch[0]).squeeze(1),
        "train": TensorDataset(numbers),
        "batch_size": 4,
    }
    return bw.Task(**{**settings, **changes})


def run_of(losses, batch_size) -> ShortRun:
    return ShortRun(
        batch_size=batch_size,
        lr=0.1,
        losses=tuple(losses),
        step_times=(0.5,) * len(losses),
        num_examples=batch_size * len(losses),
    )


def test_runs_of_any_batch_size_see_the_same_examples_in_the_same_order():
    spec = bw.OptimizerSpec(lr=0.1)
    small = short_run(task(), spec, batch_size=1, num_examples=48, seed=3)
    large = short_run(task(), spec, batch_size=4, num_examples=48, seed=3)
    assert np.reshape(small.losses, (-1, 4)).mean(1) == pytest.approx(list(large.losses))
    assert (small.num_examples, large.num_examples) == (48, 48)
    other = short_run(task(), spec, batch_size=4, num_examples=48, seed=4)
    assert list(other.losses) != pytest.approx(list(large.losses))


def test_a_run_leaves_the_random_generators_as_they_were():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    short_run(task(), bw.OptimizerSpec(lr=0.1), batch_size=4, num_examples=8)
    assert torch.equal(torch.rand(3), wanted)


def test_the_end_is_the_last_third_of_the_examples():
    run = run_of([9.0, 9.0, 9.0, 9.0, 1.0, 3.0], 2)
    assert run.end_loss == pytest.approx(2.0)
    assert run.seconds == pytest.approx(3.0)


def test_a_run_holds_the_run_of_a_smaller_budget():
    spec = bw.OptimizerSpec(lr=1e-4, momentum=0.5)
    quadratic = task(loss=lambda model, batch: model(batch[0]).squeeze(1).square())
    whole = short_run(quadratic, spec, batch_size=4, num_examples=48, seed=2)
    part = short_run(quadratic, spec, batch_size=4, num_examples=20, seed=2)
    assert whole.prefix(20).losses == part.losses
    assert whole.prefix(20).num_examples == part.num_examples == 20


def test_the_excess_of_a_constant_is_that_constant_and_sure():
    base = np.random.default_rng(0).normal(size=120)
    found = excess_loss(run_of(base + 0.25, 2), run_of(base, 2))
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_of_the_excess_covers():
    """Independent differences of mean 0.3: 95 % of the intervals hold it, within four standard errors of 400 tries."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        base = rng.normal(size=144)
        found = excess_loss(run_of(base + 0.3 + rng.normal(size=144), 1), run_of(base, 1))
        hits += found.low <= 0.3 <= found.high
    assert abs(hits / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


def test_blocks_hold_whole_steps_of_the_larger_batch():
    assert list(block_means(np.arange(10.0), 4)) == pytest.approx([3.5, 7.5])
    assert len(block_means(np.arange(1000.0), 1)) == 12
    assert len(block_means(np.arange(3.0), 8)) == 1


def test_a_run_that_blows_up_is_above_all_others():
    spec = bw.OptimizerSpec(lr=1e30, momentum=0.0)
    quadratic = task(loss=lambda model, batch: model(batch[0]).squeeze(1).square())
    lost = short_run(quadratic, spec, batch_size=4, num_examples=48)
    assert not lost.finite
    assert lost.end_loss == math.inf
    assert len(lost.losses) < 12
    fine = run_of([1.0] * 12, 4)
    assert excess_loss(lost, fine).low == math.inf
    assert excess_loss(fine, lost).high == -math.inf
    assert excess_loss(lost, lost).high == math.inf


def test_too_few_steps_bound_nothing():
    found = excess_loss(run_of([2.0, 2.0], 8), run_of([1.0, 1.0], 8))
    assert (found.value, found.low, found.high) == (1.0, -math.inf, math.inf)
