"""Every command from a shell's point of view: exit codes, one line for an error, nothing but JSON with ``--json``."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchwright.cli.app import run
from batchwright.core.records import read_records

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
import batchwright as bw

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(400, 5, generator=GENERATOR)
LABELS = (INPUTS.sum(1) > 0).long()

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

def make_task(**changes):
    settings = dict(
        name="toy", model=lambda: nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2)), loss=loss,
        train=TensorDataset(INPUTS[:320], LABELS[:320]), evaluation=TensorDataset(INPUTS[320:], LABELS[320:]),
        optimizer=bw.OptimizerSpec(lr=0.05), target=bw.Target(value=0.2), batch_size=16, max_examples=20000,
    )
    return bw.Task(**{**settings, **changes})

def scalar():
    return make_task(loss=lambda model, batch: loss(model, batch).mean())

def empty():
    return make_task(train=TensorDataset(INPUTS[:0], LABELS[:0]))

def large():
    return make_task(batch_size=321)

CALLS = [0]
def nan_loss(model, batch):
    CALLS[0] += model.training and torch.is_grad_enabled()
    return loss(model, batch) * (float("nan") if CALLS[0] >= 3 else 1.0)

def nan():
    return make_task(loss=nan_loss)

def long():
    return make_task(target=None, max_examples=10**9)

def noise():
    def only_noise(model, batch):
        return model[0].weight[0] @ batch[0].T + model[0].weight[1].sum() * 0
    return make_task(loss=only_noise, train=TensorDataset(INPUTS[:320] - INPUTS[:320].mean(0), LABELS[:320]), target=None,
                     optimizer=bw.OptimizerSpec(lr=1e-9))

def not_a_task():
    return 3

class Broken:
    pass
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "user_task.py"
    path.write_text(TASK)
    return path


def failure(capsys, arguments: list[str], code: int) -> str:
    """The one line on stderr of a command that exits with ``code`` and prints nothing else."""
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("batchwright: ")
    return lines[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-task", ["no-such-task", "digits-cnn"]),
        ("missing.py:make_task", ["missing.py"]),
        ("FILE:nothing", ["nothing", "make_task"]),
        ("FILE:not_a_task", ["Task", "int"]),
        ("FILE:scalar", ["shape (", "reduction='none'"]),
        ("FILE:empty", ["at least one example"]),
        ("FILE:large", ["at most the number of training examples", "321"]),
        ("no.such.module:make_task", ["no.such.module"]),
    ],
)
@pytest.mark.parametrize("command", ["plan", "train"])
def test_a_wrong_task_is_one_line_and_exit_2(capsys, file, tmp_path, command, name, words):
    out = ["--out", str(tmp_path / "out")]
    line = failure(capsys, [command, name.replace("FILE", str(file)), *out], 2)
    assert all(word in line for word in words), line


def test_nan_from_step_three_is_one_line_and_leaves_a_record(capsys, file, tmp_path):
    line = failure(capsys, ["train", f"{file}:nan", "--out", str(tmp_path / "a")], 2)
    assert "must stay finite" in line
    assert "at step" in line
    assert read_records(tmp_path / "a").of_kind("end")[0]["reason"] == "failed"
    assert "must stay finite" in failure(capsys, ["plan", f"{file}:nan"], 2)


def test_a_batch_above_the_data_set_is_one_line(capsys, file, tmp_path):
    arguments = ["train", f"{file}:make_task", "--batch-size", "999", "--out", str(tmp_path / "a")]
    assert "at most the number of training examples, got 999 for 320" in failure(capsys, arguments, 2)


def test_an_out_that_cannot_be_written_is_one_line(capsys, file, tmp_path):
    (tmp_path / "file").write_text("")
    for command in ("plan", "train"):
        arguments = [command, f"{file}:make_task", "--out", str(tmp_path / "file" / "x")]
        assert "--out must be a folder that can be written" in failure(capsys, arguments, 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_line(capsys, file, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "records.jsonl").symlink_to("/dev/full")
    assert "No space left on device" in failure(capsys, ["train", f"{file}:make_task", "--out", str(tmp_path / "a")], 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan"], ["TASK"]),
        (["plan", "digits-mlp", "--objective", "speed"], ["--objective must be one of"]),
        (["plan", "digits-mlp", "--no-such-option"], ["no-such-option"]),
        (["plan", "digits-mlp", "--budget-steps", "3"], ["--budget-steps must be"]),
        (["train", "digits-mlp"], ["--out"]),
        (["train", "digits-mlp", "--policy", "magic", "--out", "x"], ["--policy must be one of"]),
        (["train", "digits-mlp", "--policy", "schedule:64", "--out", "x"], ["made of start:batch_size, got '64'"]),
        (["train", "digits-mlp", "--policy", "schedule", "--out", "x"], ["must be given schedule", "for instance"]),
        (["train", "digits-mlp", "--policy-option", "a=1", "--out", "x"], ["--policy-option must go with --policy"]),
        (["train", "digits-mlp", "--policy", "cabs", "--out", "x"], ["plain SGD, got sgd with momentum"]),
        (["train", "digits-mlp", "--policy", "restarted-budget:1B 2B", "--out", "x"], ["sgd"]),
        (["train", "digits-mlp", "--device", "tpu", "--out", "x"], ["--device must be"]),
        (["no-such-command"], ["no-such-command"]),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    line = failure(capsys, arguments, 2)
    assert all(word in line for word in words), line


def test_a_gradient_lost_in_noise_is_exit_3_with_what_would_settle_it(capsys, file):
    line = failure(capsys, ["plan", f"{file}:noise"], 3)
    assert "not enough evidence" in line
    assert "more batches" in line
    assert "--budget-steps" in line


def test_damaged_records_and_checkpoints_are_one_line(capsys, file, tmp_path):
    folder = tmp_path / "a"
    assert run(["train", f"{file}:make_task", "--out", str(folder), "--checkpoint-every", "5"]) == 0
    capsys.readouterr()
    for path in (folder / "checkpoints").glob("*/model.safetensors"):
        path.write_bytes(b"garbage")
    line = failure(capsys, ["train", f"{file}:make_task", "--out", str(folder), "--resume"], 2)
    assert "no checkpoint" in line
    assert "start anew" in line
    lines = (folder / "records.jsonl").read_text().splitlines()
    (folder / "records.jsonl").write_text("\n".join([lines[0], "gar{bage", *lines[2:]]) + "\n")
    assert "damage in line 2" in failure(capsys, ["train", f"{file}:make_task", "--out", str(folder), "--resume"], 2)


def test_a_damaged_plan_is_one_line(capsys, file, tmp_path):
    (tmp_path / "plan.json").write_text('{"schema": 1, "task": "toy"')
    arguments = ["train", f"{file}:make_task", "--plan", str(tmp_path), "--out", str(tmp_path / "a")]
    assert "must hold JSON" in failure(capsys, arguments, 2)
    (tmp_path / "plan.json").write_text('{"schema": 1, "task": "toy", "batch_size": "many"}')
    assert "plan.json" in failure(capsys, arguments, 2)


def test_json_is_one_document_in_the_envelope(capsys, file, tmp_path):
    assert run(["plan", f"{file}:make_task", "--json", "--out", str(tmp_path / "plan")]) == 0
    document = json.loads(capsys.readouterr().out)
    plan = document["result"]["plan"]
    assert plan["batch_size"] >= 1
    assert {"batch_size", "lr", "noise_scale", "critical_batch_size"} <= set(plan["intervals"])
    assert {"batch_size", "micro_batch_size", "lr", "momentum"} <= set(plan["reasons"])
    assert document["cost"]["plain_steps"] > 0
    where = str(tmp_path / "run")
    assert run(["train", f"{file}:make_task", "--plan", str(tmp_path / "plan"), "--out", where, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["reason"] in ("target", "limit")
    assert run(["report", str(tmp_path), "--json"]) == 0
    page = Path(json.loads(capsys.readouterr().out)["result"]["page"])
    assert "toy" in page.read_text()
    for command in ("tasks", "doctor"):
        assert run([command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["command"] == command


def test_a_plan_keeps_to_the_memory_it_is_given(capsys, file):
    arguments = ["plan", f"{file}:make_task", "--objective", "time", "--json"]
    ceilings = []
    for memory in ("20kB", "1MB"):
        assert run([*arguments, "--memory", memory]) == 0
        plan = json.loads(capsys.readouterr().out)["result"]["plan"]
        assert plan["evidence"]["memory_budget_bytes"] == {"20kB": 20_000, "1MB": 1_000_000}[memory]
        ceilings.append(plan["micro_batch_size"] if plan["micro_batch_size"] < plan["batch_size"] else math.inf)
    assert ceilings[0] < ceilings[1]  # of 20,000 bytes parameters and gradients leave room for some of the 320 examples


def test_doctor_says_what_the_machine_and_the_extras_can_do(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    assert run(["doctor", "--json", "--device", "cpu", "--data-root", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"device", "device_name", "load", "num_cpus", "num_threads", "torch"} <= set(document["environment"])
    found = document["result"]
    assert found["available_memory_bytes"] > 0
    assert found["malloc"]["MALLOC_MMAP_MAX_"] == "0"
    assert found["data_root_found"]
    assert "uci-mlp" in found["tasks_that_need_data"]
    assert set(found["extras"]) == {
        "images",
        "report",
        "rl",
        "tune",
        "lightning",
        "transformers",
        "tensorboard",
        "wandb",
    }
    for name, extra in found["extras"].items():
        assert extra["enables"]
        assert found["missing"][name] == [package for package, version in extra["packages"].items() if version is None]
    assert run(["doctor", "--device", "cpu", "--data-root", str(tmp_path / "none")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "data root not found" in text
    assert "names a folder that is not there" in text
    assert str(tmp_path) not in text


def test_report_of_nothing_is_one_line(capsys, tmp_path):
    assert "none" in failure(capsys, ["report", str(tmp_path / "none")], 2)


def test_ctrl_c_leaves_a_run_that_resumes(file, tmp_path):
    """A real process group of its own, as under a shell: SIGINT, exit 130, then a resume that goes on."""
    command = [sys.executable, "-m", "batchwright", "train", f"{file}:long", "--out", str(tmp_path / "a")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    records = tmp_path / "a" / "records.jsonl"
    for _ in range(600):
        if records.exists() and records.read_text().count('"step"') > 20:
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "--resume" in out
    assert "Traceback" not in err
    ends = read_records(tmp_path / "a").of_kind("end")
    assert [end["reason"] for end in ends] == ["interrupted"]
    again = subprocess.Popen(
        [*command, "--resume"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    for _ in range(600):
        if (
            '"resume"' in records.read_text()
            and read_records(tmp_path / "a").lines[-1].get("step", 0) > ends[0]["step"]
        ):
            break
        time.sleep(0.05)
    again.send_signal(signal.SIGTERM)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 130, err
    assert read_records(tmp_path / "a").of_kind("end")[0]["step"] > ends[0]["step"]


def test_the_budget_of_the_stability_gauge_is_an_option(capsys, file, tmp_path):
    arguments = ["train", f"{file}:make_task", "--stability", "--batch-size", "4", "--max-examples", "600"]
    arguments += ["--no-stop-at-target", "--device", "cpu"]
    assert run([*arguments, "--out", str(tmp_path / "a"), "--stability-budget", "inf"]) == 0
    records = read_records(tmp_path / "a")
    assert records.of_kind("start")[0]["settings"]["stability_budget"] is None
    assert [line["step"] for line in records.of_kind("stability")] == [50, 100, 150]
    assert run([*arguments, "--out", str(tmp_path / "b"), "--stability-budget", "0.5"]) == 0
    assert read_records(tmp_path / "b").of_kind("start")[0]["settings"]["stability_budget"] == 0.5
    capsys.readouterr()
    line = failure(capsys, [*arguments, "--out", str(tmp_path / "c"), "--stability-budget", "0"], 2)
    assert "--stability-budget must be a finite number and above 0, got 0.0" in line


def test_brackets_are_printed_as_they_are(capsys):
    """Rich would read ``[report]`` as a style and print nothing."""
    from batchwright.cli.output import console

    console().print("pip install 'batchwright[report]'")
    assert "batchwright[report]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--watch", "--json"], "--json must be left out with --watch"),
        (["--watch", "--out", "x"], "--out must be left out with --watch"),
        (["--port", "8000"], "--port must go with --watch"),
        (["--watch", "--port", "99999"], "--port"),
    ],
)
def test_what_does_not_go_with_a_served_page_is_one_line(capsys, tmp_path, options, words):
    assert words in failure(capsys, ["report", str(tmp_path), *options], 2)
