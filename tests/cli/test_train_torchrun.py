"""`batchwright train` as people start it on several processes: ``torchrun``; the first rank alone speaks, and a restart goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch.distributed as dist

from batchwright.core.records import read_records

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo"
)
TASK = """
import os

import torch
from torch.utils.data import TensorDataset
import batchwright as bw

inputs = torch.randn(320, 6, generator=torch.Generator().manual_seed(0))
labels = (inputs[:, 0] > 0).long()


def loss(model, batch):
    if model.training and len(labels) == 320 and os.environ.get("RANK") == "1" and len(batch[0]) > ROOM:
        raise torch.OutOfMemoryError("simulated")
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def make_task():
    return bw.Task(name="small", model=lambda: torch.nn.Linear(6, 2), loss=loss, train=TensorDataset(inputs, labels))
"""


@pytest.fixture
def task(tmp_path) -> str:
    (tmp_path / "task.py").write_text(TASK.replace("ROOM", "1000"))
    return f"{tmp_path / 'task.py'}:make_task"


def start(arguments: list[str], launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *launcher]
    return subprocess.Popen(
        [*command, "-m", "batchwright", *arguments, "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def own_lines(text: str) -> list[str]:
    """What the command said itself; torchrun has much to say too."""
    return [line for line in text.splitlines() if line.startswith("batchwright:")]


def test_one_json_document_and_the_run_of_both_ranks(task, tmp_path):
    job = start(["train", task, "--out", str(tmp_path / "a"), "--max-examples", "960", "--batch-size", "24", "--json"])
    out, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    assert json.loads(out)["result"]["num_steps"] == 40
    (begin,) = read_records(tmp_path / "a").of_kind("start")
    assert begin["world_size"] == 2
    assert not own_lines(err)


def test_what_is_wrong_is_said_once(task, tmp_path):
    job = start(["train", task, "--out", str(tmp_path / "a"), "--policy", "magic"])
    out, err = job.communicate(timeout=240)
    assert job.returncode != 0
    (line,) = own_lines(err)
    assert "--policy must be one of" in line
    assert not out
    assert not (tmp_path / "a").exists()


@pytest.mark.timeout(900)
def test_a_sharded_run_out_of_memory_is_started_anew_with_what_fits(task, tmp_path):
    (tmp_path / "task.py").write_text(TASK.replace("ROOM", "6"))
    arguments = ["train", task, "--out", str(tmp_path / "a"), "--max-examples", "480", "--batch-size", "24"]
    job = start([*arguments, "--distributed", "fsdp", "--json"], ("--max-restarts=1",))
    out, err = job.communicate(timeout=600)
    assert job.returncode == 0, err
    assert "go on with --resume" in own_lines(err)[0]
    assert json.loads(out)["result"]["num_examples"] == 480
    lines = read_records(tmp_path / "a")
    assert [line["micro_batch_size"] for line in lines.of_kind("micro_batch_size")] == [6]


def test_ctrl_c_leaves_a_run_that_resumes(task, tmp_path):
    arguments = ["train", task, "--out", str(tmp_path / "a"), "--max-examples", "10000000"]
    job = start(arguments)
    records = tmp_path / "a" / "records.jsonl"
    for _ in range(2400):
        if records.exists() and records.read_text().count('"step"') > 20:
            break
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "--resume" in out, err
    assert [end["reason"] for end in read_records(tmp_path / "a").of_kind("end")] == ["interrupted"]


def test_other_commands_want_one_process(monkeypatch, capsys):
    from batchwright.cli.app import run

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run(["plan", "digits-mlp"]) == 2
    assert "plan must run in a single process, got 2" in " ".join(capsys.readouterr().err.split())
