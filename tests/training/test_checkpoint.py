"""Checkpoints appear whole or not at all, and damage is noticed."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.adapt import NoiseScale
from batchwright.core.errors import CheckpointError, OutputError
from batchwright.core.preserve import RandomState
from batchwright.core.records import read_records
from batchwright.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from batchwright.training.loop import train
from batchwright.training.settings import holds_run

from .conftest import make_task


def checkpoint_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    return Checkpoint(
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        random_state=RandomState.capture(),
        progress={"state": {"value": 0.1 + 0.2}},
    )


def trained(kind: str = "Adam") -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight  # tied, which safetensors alone would refuse
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop"])
def test_round_trip_is_exact(tmp_path, kind):
    model, optimizer = trained(kind)
    save_checkpoint(tmp_path, 7, checkpoint_of(model, optimizer))
    expected = (torch.rand(3), np.random.rand(3), random.random())
    found, damaged = load_newest(tmp_path)
    assert not damaged
    assert all(torch.equal(value, found.model[name]) for name, value in model.state_dict().items())
    assert found.progress == {"state": {"value": 0.1 + 0.2}}
    fresh = getattr(torch.optim, kind)(model.parameters(), lr=0.5)
    fresh.load_state_dict(found.optimizer)
    assert str(fresh.state_dict()) == str(optimizer.state_dict())
    found.random_state.restore()
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]


def test_two_newest_are_kept(tmp_path):
    model, optimizer = trained()
    for step in (1, 5, 9, 9):
        save_checkpoint(tmp_path, step, checkpoint_of(model, optimizer))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000000005", "step-000000009"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_a_damaged_checkpoint_is_passed_over_and_all_damaged_is_an_error(tmp_path, name, damage):
    model, optimizer = trained()
    for step in (1, 2):
        save_checkpoint(tmp_path, step, checkpoint_of(model, optimizer))

    def spoil(step: int) -> None:
        path = tmp_path / "checkpoints" / f"step-{step:09d}" / name
        data = bytearray(path.read_bytes())
        if damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        else:
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)

    spoil(2)
    found, damaged = load_newest(tmp_path)
    assert found is not None
    assert len(damaged) == 1
    assert "step-000000002" in damaged[0]
    spoil(1)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read: step-000000002.*step-000000001"):
        load_newest(tmp_path)


def test_no_checkpoint_is_none(tmp_path):
    assert load_newest(tmp_path) is None


def test_a_full_disk_is_one_clear_error_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    model, optimizer = trained()
    save_checkpoint(tmp_path, 1, checkpoint_of(model, optimizer))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("batchwright.training.checkpoint.save_file", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(tmp_path, 2, checkpoint_of(model, optimizer))
    monkeypatch.undo()
    assert load_newest(tmp_path)[0].progress["state"]["value"] == 0.1 + 0.2
    save_checkpoint(tmp_path, 3, checkpoint_of(model, optimizer))
    assert not list((tmp_path / "checkpoints").glob(".*"))


def child(folder: Path, resume: bool) -> None:
    """A training process; forked, so that importing torch does not take up the instants at which it is to be killed."""
    torch.set_num_threads(1)
    train(
        make_task(target=None, max_examples=12000),
        out=folder,
        policy=NoiseScale(max_batch_size=64, cooldown=4, fraction=1.0),
        batch_size=4,
        noise_every=1,
        checkpoint_every=3,
        resume=resume,
        device="cpu",
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_kill_at_random_instants_resumes_bit_identical(tmp_path):
    """Kill -9 at 20 random instants, with checkpoints every 3 steps so that many kills meet a write, then compare the files."""
    forks, whole, cut = multiprocessing.get_context("fork"), tmp_path / "whole", tmp_path / "cut"
    # The first optimizer of a process imports for seconds; done here, the forks find it done and get to their steps.
    train(make_task(target=None), out=tmp_path / "warm", max_examples=32, device="cpu")
    start = time.monotonic()
    reference = forks.Process(target=child, args=(whole, False))
    reference.start()
    reference.join()
    assert reference.exitcode == 0
    duration = time.monotonic() - start
    rng, kills = random.Random(0), 0
    for _ in range(20):
        process = forks.Process(target=child, args=(cut, holds_run(cut)))
        process.start()
        time.sleep(rng.uniform(0.0, duration / 20))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    # On a machine whose load changes, a process may be done before its kill comes; most must have met theirs.
    assert kills >= 15
    last = forks.Process(target=child, args=(cut, holds_run(cut)))
    last.start()
    last.join()
    assert last.exitcode == 0
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert newest(whole, name).read_bytes() == newest(cut, name).read_bytes()
    states = [json.loads(newest(folder, "state.json").read_text()) for folder in (whole, cut)]
    for key in ("noise", "controller", "num_examples", "batch_size"):
        assert states[0]["progress"]["state"][key] == states[1]["progress"]["state"][key]
    assert states[0]["progress"]["sampler"] == states[1]["progress"]["sampler"]
    assert states[0]["random"] == states[1]["random"]
    losses = [[line["loss"] for line in read_records(folder).of_kind("step")] for folder in (whole, cut)]
    assert losses[0] == losses[1]


def newest(folder: Path, name: str) -> Path:
    return sorted((folder / "checkpoints").glob("step-*"))[-1] / name
