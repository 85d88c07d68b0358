"""A process killed in the middle of a step, and started again, ends with the bits of one that never was.

Run as a program, this file is the job: ``python test_engine_kill.py FOLDER LAST_UPDATE_BEFORE_THE_KILL``.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from batchwright.adapt import NoiseScale
from batchwright.training.engine import BatchEngine

NUM_EPOCHS = 4


def job(folder: Path, kill_after: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(120, 5), torch.randint(3, (120,)))
    model = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.3), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    policy = NoiseScale(cooldown=2, fraction=2.0, max_batch_size=32)
    engine = BatchEngine(model, optimizer, data, policy=policy, micro_batch_size=4, noise_every=1)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        engine.load_state_dict(state["engine"])
    while engine.epoch < NUM_EPOCHS:
        for update in engine:
            for x, y in update:
                update.backward(F.cross_entropy(model(x), y, reduction="none"))
                if engine.num_updates == kill_after:
                    os.kill(os.getpid(), signal.SIGKILL)
            if engine.num_updates % 3 == 0:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "engine": engine.state_dict(),
                }
                torch.save(state, folder / "new.pt")
                (folder / "new.pt").replace(checkpoint)
    torch.save({"model": model.state_dict(), "sizes": engine.batch_size, "steps": engine.num_steps}, folder / "end.pt")


def start(folder: Path, kill_after: int) -> int:
    folder.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, __file__, str(folder), str(kill_after)], capture_output=True, check=False)
    if done.returncode > 0:
        pytest.fail(done.stderr.decode())
    return done.returncode


def test_a_killed_job_ends_with_the_bits_of_one_that_was_not(tmp_path):
    assert start(tmp_path / "whole", -1) == 0
    for kill_after in (7, 19):
        assert start(tmp_path / "killed", kill_after) == -signal.SIGKILL
    assert start(tmp_path / "killed", -1) == 0
    whole, killed = (torch.load(tmp_path / name / "end.pt", weights_only=True) for name in ("whole", "killed"))
    assert whole["steps"] == killed["steps"] > 20
    assert whole["sizes"] == killed["sizes"] > 4
    for name, value in whole["model"].items():
        assert torch.equal(value, killed["model"][name])


if __name__ == "__main__":
    job(Path(sys.argv[1]), int(sys.argv[2]))
