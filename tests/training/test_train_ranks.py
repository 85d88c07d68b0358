"""`train` on several ranks is `train` on one: the same batches, gradients and decisions, also where memory or a rank fails."""

import pytest
import torch
from torch import nn

from batchwright.adapt import NoiseScale, Schedule, parse_policy
from batchwright.core.records import read_records
from batchwright.tasks.task import OptimizerSpec
from batchwright.training.loop import train

from .conftest import make_task
from .rank_helpers import needs_ranks, on_ranks
from .test_policies import EVERY_POLICY, QUIET, separate_task

pytestmark = needs_ranks
UPDATES = 50
# Shares that are equal, unequal and empty; accumulation; batch sizes that change.
CASES = {
    "plain": {"batch_size": 25, "micro_batch_size": 5, "max_examples": 25 * UPDATES},
    "adamw": {"batch_size": 16, "max_examples": 16 * UPDATES},
    "changing": {
        "policy": Schedule(schedule="0:7 40:31 400:2 440:1 450:24"),
        "batch_size": 7,
        "micro_batch_size": 3,
        "max_examples": 666,
    },
}


def plain_task(name: str = ""):
    """Without BatchNorm and dropout, which know which examples go through them together."""
    spec = OptimizerSpec(name="adamw", lr=0.01, weight_decay=0.1) if name == "adamw" else OptimizerSpec(lr=0.05)
    model = lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))  # noqa: E731
    return make_task(model=model, target=None, optimizer=spec)


def whole(run) -> list[float]:
    values = run.model.state_dict().values()
    return torch.cat(
        [(v.full_tensor() if hasattr(v, "full_tensor") else v).double().flatten() for v in values]
    ).tolist()


def go(folder, name: str, **options) -> dict:
    sizes, losses = [], []

    def note(progress) -> None:
        sizes.append([progress.batch_size, progress.num_examples])

    run = train(plain_task(name), out=folder, on_progress=note, **{**CASES.get(name, {}), **options})
    losses = [line["loss"] for line in read_records(folder).of_kind("step")]
    return {"parameters": whole(run), "sizes": sizes, "losses": losses, "values": dict(run.values)}


def near(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    ours, theirs = torch.tensor(found["parameters"]), torch.tensor(expected["parameters"])
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance
    assert found["sizes"] == expected["sizes"]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4, abs=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("alone")
    return {name: go(folder / name, name) for name in CASES}


@pytest.mark.parametrize("world_size", [2, 3])
def test_fifty_updates_are_those_of_one_process(tmp_path, alone, world_size):
    ranks = on_ranks(
        world_size, lambda rank: {name: go(tmp_path / name, name) for name in CASES}, tmp_path / "results"
    )
    for name in CASES:
        assert len(alone[name]["sizes"]) == UPDATES
        near(ranks[0][name], alone[name])
        for other in ranks[1:]:
            assert other[name] == ranks[0][name]
