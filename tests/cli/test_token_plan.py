"""``batchwright plan TASK --tokens``: counts as people write them, one clear line for what is wrong, and a plan that trains."""

import json
from pathlib import Path

import pytest

from batchwright.cli.app import run
from batchwright.cli.token_plan import TokenRequest
from batchwright.core.records import read_json
from batchwright.report.plan_records import parse_plan

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
import batchwright as bw

INPUTS = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

def make_task(**changes):
    settings = dict(name="toy", model=lambda: nn.Linear(6, 2), loss=loss, train=TensorDataset(INPUTS, LABELS),
                    optimizer=bw.OptimizerSpec(name="adamw", lr=1e-3), batch_size=16, sequence_length=4)
    return bw.Task(**{**settings, **changes})

def scion():
    return make_task(optimizer=bw.OptimizerSpec(name="scion", lr=1e-3))
"""
BASE = ["--base-batch-size", "8", "--base-lr", "0.001", "--base-tokens", "1000", "--budget-steps", "40"]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "user_task.py"
    path.write_text(TASK)
    return path


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10M", 10**7),
        ("1.3G", 13 * 10**8),
        ("1.3B", 13 * 10**8),
        ("500k", 500_000),
        ("250000", 250_000),
        (" 2m ", 2 * 10**6),
    ],
)
def test_counts_as_people_write_them(text, count):
    assert TokenRequest.parse(text, None, None, None, None).tokens == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--tokens", "ten"],
            "--tokens must be a whole number of tokens above 0, such as 10M, 1.3B, 500k or 250000, got 'ten'",
        ),
        (["--tokens", "0"], "--tokens must be a whole number of tokens above 0"),
        (["--tokens", "1.5"], "--tokens must be a whole number of tokens above 0"),
        (["--tokens", "-3M"], "--tokens must be a whole number of tokens above 0"),
        (["--tokens", "10"], "tokens must be an integer of at least 80, got 10; an example of toy has 4 of them"),
        (["--base-lr", "0.1"], "--base-lr must go with --tokens, got it alone"),
        (["--tokens", "10k", "--base-lr", "0.1"], "--base-lr must go with --base-tokens, got none"),
        (["--tokens", "10k", "--base-tokens", "1k"], "--base-tokens must go with --base-batch-size and --base-lr"),
        (["--tokens", "10k", "--base-tokens", "x"], "--base-tokens must be a whole number of tokens above 0"),
        (["--tokens", "10k", "--restart-at", "1k y"], "--restart-at must be a whole number of tokens above 0"),
        (
            ["--tokens", "10k", "--restart-at", "20k"],
            "--restart-at must rise and stay below tokens, got 20000 before 10000",
        ),
        (["--tokens", "10k", "--objective", "time"], "--objective must be left out with --tokens"),
        (["--tokens", "10k", "--verify"], "--verify must be left out with --tokens"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, file, options, message):
    assert run(["plan", f"{file}:make_task", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert message in err


def test_a_plan_is_shown_written_and_trained(capsys, file, tmp_path):
    out = tmp_path / "plan"
    assert run(["plan", f"{file}:make_task", "--tokens", "8k", *BASE, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    for words in (
        "Scion for 8,000 tokens",
        "Regime: ",
        "Constants, along",
        "sigma of a token",
        "Cost: ",
        "in place of",
    ):
        assert words in " ".join(shown.split()), words
    # A report knows the fields that both kinds of plan have.
    record = parse_plan(read_json(out / "plan.json"), "plan.json")
    assert (record.task, record.batch_size, record.intervals["batch_size"].value) == ("toy", 32, 32.0)
    assert run(["train", f"{file}:make_task", "--plan", str(out), "--out", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    # 8 times the tokens: the batch times 4; 2000 examples, and the last step is whole.
    assert (result["batch_size"], result["num_steps"], result["num_examples"]) == (32, 63, 63 * 32)
    assert result["reason"] == "limit"


def test_json_is_one_document_and_a_scion_task_brings_its_own_settings(capsys, file):
    options = ["--tokens", "8k", "--base-tokens", "1000", "--budget-steps", "40", "--restart-at", "2k", "--json"]
    assert run(["plan", f"{file}:scion", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    plan = document["result"]["plan"]
    assert document["command"] == "plan"
    assert plan["base"] == {"batch_size": 16, "sequence_length": 4, "lr": 0.001, "tokens": 1000.0}
    assert [stage["tokens"] for stage in plan["stages"]] == [2000, 8000]
    assert plan["token_regime"]["candidates"]
    assert {"batch_size", "lr", "mu", "noise_threshold"} <= set(plan["intervals"])


def test_a_plan_of_another_task_is_refused(capsys, file, tmp_path):
    out = tmp_path / "plan"
    assert run(["plan", f"{file}:make_task", "--tokens", "8k", *BASE, "--out", str(out), "--json"]) == 0
    capsys.readouterr()
    assert run(["train", "noisy-quadratic", "--plan", str(out), "--out", str(tmp_path / "run")]) == 2
    assert "plan must be made for task 'noisy-quadratic', got one for 'toy'" in capsys.readouterr().err
