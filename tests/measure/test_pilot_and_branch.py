"""The pilot measures where it says and repeats itself; branches find a critical batch size that is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.core.errors import InputError, NonFiniteLossError, NotEnoughEvidenceError
from batchwright.measure.branch import _critical_batch_size, branch
from batchwright.measure.pilot import pilot
from batchwright.measure.snapshot import Snapshot
from batchwright.tasks.task import OptimizerSpec, Task

DIM = 6


def make_task(lr: float = 0.05, optimizer: str = "sgd", loss=None) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, DIM, generator=generator)
    targets = inputs @ torch.arange(1.0, DIM + 1) + 0.5 * torch.randn(512, generator=generator)

    def squared(model: nn.Module, batch: tuple) -> torch.Tensor:
        return (model(batch[0]).squeeze(1) - batch[1]).square()

    return Task(
        name="regression",
        model=lambda: nn.Linear(DIM, 1),
        loss=loss or squared,
        train=TensorDataset(inputs, targets),
        optimizer=OptimizerSpec(name=optimizer, lr=lr, momentum=0.0 if optimizer == "sgd" else 0.9),
        batch_size=16,
    )


def test_pilot_measures_in_its_late_half_and_counts_what_it_used():
    found = pilot(make_task(), num_steps=20, batches_a_point=5, max_extra_batches=0)
    assert [step for step, _ in found.points] == [10, 15, 20]
    assert len(found.losses) == 20
    assert found.num_examples == 20 * 16 + 15 * 16
    assert found.losses[-1] < found.losses[0]
    assert found.plain_step_s > 0


def test_pilot_is_repeatable_and_leaves_the_generators():
    state = torch.get_rng_state()
    first, second = (pilot(make_task(), num_steps=8, batches_a_point=3) for _ in range(2))
    assert first.losses == second.losses
    assert first.noise_scale == second.noise_scale
    assert torch.equal(torch.get_rng_state(), state)


def test_pilot_that_diverges_says_so():
    with pytest.raises(
        NonFiniteLossError, match=r"got (inf|nan) at step \d+ of the pilot with the task's default lr 1e\+20"
    ):
        pilot(make_task(lr=1e20), num_steps=20)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_snapshot_restores_model_and_moments_with_new_settings(optimizer):
    task = make_task(optimizer=optimizer, lr=0.01)
    found = pilot(task, num_steps=5, batches_a_point=3, max_extra_batches=0).snapshot
    model, restored = found.restore(task, OptimizerSpec(name=optimizer, lr=0.5, momentum=0.5), "cpu")
    assert all(torch.equal(value, found.model_state[name]) for name, value in model.state_dict().items())
    assert restored.param_groups[0]["lr"] == 0.5
    again = Snapshot.take(model, restored)
    for index, values in found.optimizer_state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(again.optimizer_state["state"][index][name], value)


def test_critical_batch_size_of_an_exact_hyperbola_is_found():
    """Curves made from ``loss = 1 - examples / (1 + B / B_crit)`` have a critical batch size that is known."""
    sizes, critical, checks = [8, 64, 256], 100.0, np.linspace(0, 1, 9)
    curves = np.array([[1 - 0.5 * checks * (1 + 8 / critical) / (1 + size / critical) for size in sizes]] * 3)
    curves += 1e-4 * np.random.default_rng(0).standard_normal(curves.shape)
    found = _critical_batch_size(sizes, curves, 0.95)
    assert found.value == pytest.approx(critical, rel=0.05)
    assert found.low <= found.value <= found.high


def test_branches_cost_what_they_say_and_do_not_touch_the_checkpoint():
    task = make_task(lr=0.002)
    snapshot = pilot(task, num_steps=5, batches_a_point=3, max_extra_batches=0).snapshot
    before = {name: value.clone() for name, value in snapshot.model_state.items()}
    found = branch(task, snapshot, [64, 8], num_examples=256, num_seeds=2, lr_rule=lambda size: 0.002 * size / 8)
    assert found.batch_sizes == (8, 64)
    assert found.lrs == pytest.approx((0.002, 0.016))
    assert found.total_examples == 2 * 2 * 256
    assert found.num_steps == 2 * (32 + 4)
    assert all(torch.equal(value, before[name]) for name, value in snapshot.model_state.items())
    assert 0 <= found.critical_batch_size.low <= found.critical_batch_size.high


def test_branches_need_something_to_compare():
    task = make_task(lr=1e-12)
    snapshot = pilot(task, num_steps=3, batches_a_point=3, max_extra_batches=0).snapshot
    with pytest.raises(InputError, match="at least 2 different sizes"):
        branch(task, snapshot, [8, 8])
    with pytest.raises(InputError, match="num_seeds must be an integer of at least 2"):
        branch(task, snapshot, [8, 16], num_seeds=1)
    with pytest.raises(NotEnoughEvidenceError, match="did not lower the loss"):
        branch(
            make_task(lr=1e-3, loss=lambda m, b: (m(b[0]).squeeze(1) * 0).abs() + 1),
            snapshot,
            [8, 64],
            num_examples=128,
        )


def test_diverged_branch_counts_as_no_progress():
    task = make_task(lr=0.01)
    snapshot = pilot(task, num_steps=3, batches_a_point=3, max_extra_batches=0).snapshot
    found = branch(task, snapshot, [8, 64], lr_rule=lambda size: 0.01 if size == 8 else 1e30, num_examples=256)
    assert math.isinf(found.losses[1])
    assert found.critical_batch_size.value < 8
