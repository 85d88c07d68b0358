"""The bound on the learning rate is exact where the law is: on a quadratic, and on one noisy curvature."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.measure.curvature.lr_bound import LrBound, lr_bound
from batchwright.measure.curvature.mean_square import max_stable_lr, second_moment_growth
from batchwright.measure.snapshot import Snapshot
from batchwright.tasks.noisy_quadratic import noisy_quadratic
from batchwright.tasks.task import OptimizerSpec, Task


def snapshot_of(task: Task) -> Snapshot:
    model = task.make_model(0)
    return Snapshot.take(model, task.optimizer.build(model.parameters()), num_steps=7)


def exact(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)


def make_bound(**changes) -> LrBound:
    settings = {
        "step": 0, "batch_size": 4, "num_train": 10**6, "momentum": 0.5, "nesterov": False, "batch_sharpness": exact(3.0),
        "mean_curvature": exact(1.0), "sharpness": 1e-9, "sharpness_converged": True, "num_examples": 1, "seconds": 0.0,
    }  # fmt: skip
    return LrBound(**{**settings, **changes})


def test_the_quadratic_is_bounded_by_its_largest_eigenvalue():
    task = noisy_quadratic()
    state = torch.get_rng_state()
    found = lr_bound(task, snapshot_of(task))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.step == 7
    # The largest eigenvalue is 1, found from below to within five hundredths; SGD without momentum is stable below 2.
    assert 2.0 * (1 - 1e-5) <= found.max_lr(1024).value <= 2.0 / 0.95
    assert found.max_lr(1024).value == found.max_lr(32).value


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 64, 4096])
def test_noise_is_carried_to_the_batch_size_and_the_edge_is_that_of_the_second_moments(batch_size, nesterov):
    bound = make_bound(nesterov=nesterov)
    lr = bound.max_lr(batch_size).value
    # At batch 4 the noise (variance over mean) is 2; it falls as one over the batch size.
    growth = [
        second_moment_growth(
            lr=factor * lr, curvature_mean=1.0, curvature_variance=8.0 / batch_size, momentum=0.5, nesterov=nesterov
        )
        for factor in (0.99, 1.01)
    ]
    assert growth[0] < 1 < growth[1]


def test_a_full_batch_has_no_noise():
    bound = make_bound(num_train=64)
    assert bound.max_lr(64).value == pytest.approx(max_stable_lr(curvature_mean=1.0, momentum=0.5))


def test_the_interval_holds_every_bound_of_the_measured_intervals():
    bound = make_bound(
        batch_sharpness=Interval(value=3.0, low=2.0, high=4.0), mean_curvature=Interval(value=1.0, low=0.5, high=1.5)
    )
    found = bound.max_lr(16)
    assert found.low < found.value < found.high
    for total in (2.0, 3.0, 4.0):
        for mean in (0.5, 1.0, 1.5):
            one = make_bound(batch_sharpness=exact(total), mean_curvature=exact(mean)).max_lr(16).value
            assert found.low <= one <= found.high


def test_the_larger_curvature_rules():
    assert make_bound(sharpness=10.0).max_lr(4096).value == pytest.approx(2 * 1.5 / 10)
    assert make_bound(sharpness=10.0, nesterov=True).max_lr(4096).value == pytest.approx(2 * 1.5 / (2 * 10))
    assert make_bound(sharpness=-1.0, batch_sharpness=exact(-2.0)).max_lr(8) is None
    assert math.isfinite(make_bound(mean_curvature=exact(-1.0)).max_lr(8).value)
    with pytest.raises(InputError, match="batch_size must be"):
        make_bound().max_lr(10**7)


def test_only_sgd_has_a_bound():
    task = Task(
        name="t",
        model=lambda: nn.Linear(2, 1),
        loss=lambda model, batch: model(batch[0]).square().sum(1),
        train=TensorDataset(torch.randn(64, 2, generator=torch.Generator().manual_seed(0))),
        optimizer=OptimizerSpec(name="adamw", lr=0.01),
        batch_size=8,
    )
    assert lr_bound(task, snapshot_of(task)) is None
