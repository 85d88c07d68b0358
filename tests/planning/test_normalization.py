"""The plan's word on batch normalization: unsafe, safe, unsettled, ghosts, and nothing where there is none."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import Snapshot, train_steps
from batchwright.planning.normalization import advise_normalization


def make_task(norm=nn.BatchNorm1d, **changes) -> bw.Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(800, 6, generator=generator)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
    settings = {
        "name": "toy",
        "model": lambda: nn.Sequential(
            nn.Linear(6, 32), norm(32), nn.ReLU(), nn.Linear(32, 32), norm(32), nn.ReLU(), nn.Linear(32, 2)
        ),
        "loss": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        "train": TensorDataset(inputs, labels),
        "optimizer": bw.OptimizerSpec(lr=0.1),
        "batch_size": 64,
    }
    return bw.Task(**{**settings, **changes})


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    task = make_task()
    model = task.make_model(0)
    optimizer = task.optimizer.build(model.parameters())
    train_steps(task, model, optimizer, EpochSampler(task.num_train, 0), batch_size=64, num_steps=150)
    return Snapshot.take(model, optimizer, num_steps=150)


def advise(snapshot, task=None, **changes):
    options = {
        "first_loss": 0.69,
        "micro_batch_size": 4,
        "max_micro_batch_size": 512,
        "seed": 0,
        "device": torch.device("cpu"),
    }
    return advise_normalization(task or make_task(), snapshot, **{**options, **changes})


def test_a_micro_batch_that_harms_is_named_with_its_measured_cost_and_a_way_out(snapshot):
    before = {name: value.clone() for name, value in snapshot.model_state.items()}
    state = torch.get_rng_state()
    found = advise(snapshot)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(snapshot.model_state, before, rtol=0, atol=0)
    assert found.warns
    excess = found.evidence.excess[0]
    assert (found.evidence.micro_batch_sizes[0], found.evidence.reference_size, found.evidence.num_layers) == (
        4,
        256,
        2,
    )
    assert found.evidence.scale == pytest.approx(0.69 - found.evidence.loss)
    assert excess.low > found.evidence.tolerance * found.evidence.scale
    assert (
        "micro-batches of 4 are below what batch normalization bears here: the statistics of 4 examples" in found.reason
    )
    assert f"{excess.value / found.evidence.scale:.0%} ({excess.low / found.evidence.scale:.0%} to " in found.reason
    assert "bw.nn.convert(model, " in found.reason
    assert "'group'" in found.reason
    assert "bw.nn.convert(model, 'kalman' or 'group')" in found.reason
    assert f"from {found.evidence.safe_size} examples on" in found.reason
    assert found.num_examples == 5 * 256 * (1 + len(found.evidence.micro_batch_sizes))


def test_one_example_is_judged_by_two(snapshot):
    found = advise(snapshot, micro_batch_size=1)
    assert found.warns
    assert "micro-batches of 1 are below" in found.reason
    assert "the statistics of 2 examples" in found.reason


def test_a_large_enough_micro_batch_is_said_to_be_so_and_one_in_between_is_not_settled(snapshot):
    found = advise(snapshot, micro_batch_size=128)
    assert not found.warns
    assert (
        "micro-batches of 128 are large enough for batch normalization: the statistics of 128 examples" in found.reason
    )
    between = advise(snapshot, micro_batch_size=64)
    excess, allowed = between.evidence.excess[0], between.evidence.tolerance * between.evidence.scale
    assert excess.low <= allowed < excess.high
    assert not between.warns
    assert "whether micro-batches of 64 are large enough for batch normalization is not settled" in between.reason


def test_micro_batches_above_the_default_are_offered_ghosts_of_the_default(snapshot):
    found = advise(snapshot, micro_batch_size=400)
    assert found.evidence is None
    assert found.num_examples == 0
    assert "bw.nn.convert(model, 'ghost', ghost_size=64) keeps them at 64" in found.reason
    # A default below the safe size is no ghost to keep.
    small = advise(snapshot, make_task(batch_size=4), first_loss=5.0, micro_batch_size=100)
    assert 4 < small.evidence.safe_size < 100
    assert f"ghost_size={small.evidence.safe_size}) keeps them at {small.evidence.safe_size}" in small.reason


def test_a_model_of_ghosts_is_judged_by_their_size(snapshot):
    task = make_task(norm=lambda channels: bw.nn.GhostBatchNorm1d(channels, ghost_size=4))
    found = advise(snapshot, task, micro_batch_size=128)
    assert found.evidence.micro_batch_sizes[0] == 4
    assert found.warns
    assert "ghosts of 4 are below what batch normalization bears" in found.reason
    assert "larger ghosts do not" in found.reason


def test_where_nothing_was_gained_the_loss_itself_is_the_scale(snapshot):
    found = advise(snapshot, first_loss=0.0)
    assert found.evidence.scale == found.evidence.loss


def test_a_model_without_batch_normalization_gets_no_word():
    task = make_task(norm=nn.Identity)
    model = task.make_model(0)
    snapshot = Snapshot.take(model, task.optimizer.build(model.parameters()))
    assert advise(snapshot, task) is None


def test_the_plan_carries_it_into_its_record(tmp_path):
    plan = bw.plan(make_task(), budget=bw.Budget(plain_steps=400), device="cpu", max_batch_size=64)
    size = plan.micro_batch_size
    assert size <= 64
    assert size in plan.evidence.normalization.micro_batch_sizes
    assert plan.cost.parts["normalization"] > 0
    assert f"statistics of {size} examples" in plan.reasons["normalization"]
    plan.save(tmp_path)
    assert bw.Plan.load(tmp_path).evidence.normalization == plan.evidence.normalization
