"""`train` on several ranks is `train` on one: the same batches, gradients and decisions, also where memory or a rank fails."""

import signal

import pytest
import torch
from torch import nn

from batchwright.adapt import REGISTRY, Schedule, parse_policy
from batchwright.core.records import read_records
from batchwright.tasks.task import OptimizerSpec
from batchwright.training.loop import train

from .conftest import make_task
from .rank_helpers import needs_ranks, on_ranks
from .test_policies import QUIET, TOLD, settings_of

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
    specs = {
        "adamw": OptimizerSpec(name="adamw", lr=0.01, weight_decay=0.1),
        "muon": OptimizerSpec(name="muon", lr=0.01, options={"polar_every": 2}),
        "scion": OptimizerSpec(name="scion", lr=0.01, options={"radii": {"default": 5.0, "head": 5.0}}),
    }
    spec = specs.get(name, OptimizerSpec(lr=0.05))
    model = lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))  # noqa: E731
    return make_task(model=model, target=None, optimizer=spec)


def whole(run) -> list[float]:
    return torch.cat([value.double().flatten() for value in run.model.state_dict().values()]).tolist()


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
    ranks = on_ranks(world_size, lambda rank: {name: go(tmp_path / name, name) for name in CASES}, tmp_path / "results")
    for name in CASES:
        assert len(alone[name]["sizes"]) == UPDATES
        near(ranks[0][name], alone[name])
        for other in ranks[1:]:
            assert other[name] == ranks[0][name]


def quiet_task(spec: OptimizerSpec, **changes):
    """Every layer leaves examples apart and draws nothing, so any policy goes with it and one process can be compared."""
    model = lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))  # noqa: E731
    return make_task(model=model, target=None, optimizer=spec, sequence_length=6, **changes)


# What they look at is gathered in ways of their own; the others look at clocks alone.
MEASURING = ("cabs", "dive-batch", "inner-product-test", "norm-test", "simigrad", "stability-aware")


def some_policies(folder, names) -> dict:
    found = {}
    for name in names:
        text, options, spec = settings_of(name)
        if name == "cabs":
            options = [*options, "min_batch_size=10"]
        settings = {
            "policy": parse_policy(text, options),
            "max_examples": 480,
            "noise_every": 1,
            "micro_batch_size": 160,
        }
        settings |= {"stability_every": 4, "stability_budget": None} if name == "stability-aware" else {}
        run = train(quiet_task(spec), out=folder / name, **settings)
        lines = read_records(folder / name)
        lrs = [line["lr"] for line in lines.of_kind("step")]
        decisions = [[line["step"], line["previous"], line["batch_size"]] for line in lines.of_kind("decision")]
        found[name] = {"decisions": decisions, "lrs": lrs, "parameters": whole(run), "size": run.batch_size}
    return found


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_policy_decides_alike_on_all_ranks(tmp_path, world_size):
    names = sorted(REGISTRY) if world_size == 2 else MEASURING
    ranks = on_ranks(world_size, lambda rank: some_policies(tmp_path / "ranks", names), tmp_path / "results")
    expected = some_policies(tmp_path / "alone", names) if world_size == 2 else {}
    for name in names:
        for other in ranks[1:]:
            assert other[name] == ranks[0][name], name
        assert bool(ranks[0][name]["decisions"]) == (name not in QUIET) or name not in TOLD, name
        if world_size == 2:
            # One process measures two halves of each batch, as two ranks have them: the same numbers but for rounding.
            assert ranks[0][name]["decisions"] == expected[name]["decisions"], name
            assert ranks[0][name]["lrs"] == pytest.approx(expected[name]["lrs"], rel=1e-3), name
            assert ranks[0][name]["parameters"] == pytest.approx(expected[name]["parameters"], rel=1e-2, abs=1e-4), name


def cut_at(step: int, rank: int):
    """Ask for a stop on this rank alone; several ranks make one step more before all have heard of it."""

    def note(progress) -> None:
        if progress.step == step and rank == 0:
            signal.raise_signal(signal.SIGTERM)

    return note


def test_a_run_goes_on_with_other_numbers_of_ranks(tmp_path, alone):
    """One process, then two, three, two sharded and one again: the same global batches in the same order."""
    folder = tmp_path / "run"
    train(plain_task("adamw"), out=folder, on_progress=cut_at(9, 0), **CASES["adamw"])
    for world_size, step, parallel in ((2, 19, "ddp"), (3, 29, "ddp"), (2, 39, "fsdp")):
        reasons = on_ranks(
            world_size,
            lambda rank, step=step, parallel=parallel: (
                train(
                    plain_task("adamw"), out=folder, resume=True, on_progress=cut_at(step, rank), parallel=parallel
                ).reason
            ),
            tmp_path / f"results-{step}",
        )
        assert set(reasons) == {"interrupted"}
    run = train(plain_task("adamw"), out=folder, resume=True)
    assert run.num_steps == UPDATES
    lines = read_records(folder)
    assert [line["world_size"] for line in lines.of_kind("resume")] == [2, 3, 2, 1]
    ours, theirs = torch.tensor(whole(run)), torch.tensor(alone["adamw"]["parameters"])
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    losses = [line["loss"] for line in lines.of_kind("step")]
    assert losses == pytest.approx(alone["adamw"]["losses"], rel=1e-4)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_on_as_many_ranks_a_resumed_run_is_bit_by_bit_the_same(tmp_path, parallel):
    """With dropout and BatchNorm: random numbers of a rank follow from seed, step and rank, buffers are those of the first."""
    options = {
        "parallel": parallel,
        "policy": parse_policy("noise-scale", ["cooldown=4", "fraction=2"]),
        "noise_every": 1,
    }

    def job(rank: int) -> list:
        task = make_task(target=None, max_examples=640)
        runs = [train(task, out=tmp_path / "whole", **options)]
        train(task, out=tmp_path / "cut", on_progress=cut_at(13, rank), checkpoint_every=5, **options)
        runs.append(train(task, out=tmp_path / "cut", resume=True, parallel=parallel))
        return [[whole(run), run.num_steps, run.batch_size, dict(run.values)] for run in runs]

    for first, second in on_ranks(2, job, tmp_path / "results"):
        assert first == second
        assert first[2] > 16
    assert read_records(tmp_path / "whole").of_kind("decision")


def test_fifty_updates_are_those_of_one_process_also_sharded(tmp_path, alone):
    names = ("plain", "adamw", "changing")
    ranks = on_ranks(
        2, lambda rank: {name: go(tmp_path / name, name, parallel="fsdp") for name in names}, tmp_path / "results"
    )
    for name in names:
        near(ranks[0][name], alone[name])
        assert ranks[1][name] == ranks[0][name]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["muon", "scion"])
def test_those_that_step_by_matrices_take_the_steps_of_one_process(tmp_path, name, parallel):
    options = {"batch_size": 24, "max_examples": 24 * 20, "checkpoint_every": 5}
    one = go(tmp_path / "one", name, **options)
    ranks = on_ranks(2, lambda rank: go(tmp_path / "two", name, parallel=parallel, **options), tmp_path / "results")
    assert ranks[0] == ranks[1]
    # Where a gradient is zero but for rounding, the factor magnifies what is another order of sums.
    ours, theirs = torch.tensor(ranks[0]["parameters"]), torch.tensor(one["parameters"])
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3
    assert ranks[0]["losses"] == pytest.approx(one["losses"], rel=1e-3)
