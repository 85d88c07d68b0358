"""``batchwright tune`` as its user types it."""

import json

import pytest

from batchwright.cli.app import run

SPACE = "lr=log:1e-2:1,batch_size=log2:32:128"
ARGUMENTS = ["tune", "digits-mlp", "--space", SPACE, "--max-examples", "700", "--workers", "1", "--device", "cpu"]


def test_a_search_prints_its_plan_first_and_its_result_as_json(tmp_path, capsys):
    out = str(tmp_path / "a")
    assert run([*ARGUMENTS, "--rounds", "2", "--parallel", "3", "--robust", "20%", "--out", out, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "tune"
    result = document["result"]
    assert result["plan"] == [3, 3]
    assert len(result["trials"]) == 6
    assert set(result["values"]) == {"lr", "batch_size"}
    assert result["worst"] >= result["expected"]["value"] * (1 - 1e-9)
    assert document["cost"]["num_examples"] > 0
    assert run(["tune", "digits-mlp", "--resume", "--out", out, "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("6 trials in 2 rounds: 3, 3; 6 trials are there already.\n")
    assert "Recommended: lr" in told
    assert run(["report", out, "--json"]) == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "Search of digits-mlp" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tune", "digits-mlp", "--space", SPACE], "--out must name a folder"),
        (["tune", "digits-mlp", "--out", "OUT"], "--space must say what is searched"),
        ([*ARGUMENTS, "--out", "OUT", "--space", "lr=1"], "--space must be NAME=LOW:HIGH"),
        ([*ARGUMENTS, "--out", "OUT", "--space", "width=1:2"], "--space of a task must name some of lr, momentum"),
        ([*ARGUMENTS, "--out", "OUT", "--space", "batch_size=log2:16:4096"], "lower its end in --space"),
        ([*ARGUMENTS, "--out", "OUT", "--trials", "9", "--parallel", "3"], "trials must go without parallel"),
        ([*ARGUMENTS, "--out", "OUT", "--robust", "a lot"], "--robust must be a share above 0"),
        ([*ARGUMENTS, "--out", "OUT", "--engine", "slurm"], "engine must be one of local, ray"),
        (["tune", "digits-mlp", "--resume", "--out", "OUT"], "--resume needs a folder that holds a search"),
    ],
)
def test_a_wrong_command_is_one_clear_line(arguments, words, tmp_path, capsys):
    code = run([str(tmp_path / "a") if each == "OUT" else each for each in arguments])
    found = capsys.readouterr()
    assert code == 2
    assert words in found.err
    assert found.err.count("\n") == 1
