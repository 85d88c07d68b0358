"""``batchwright rl`` from a shell's point of view."""

import json
from pathlib import Path

import pytest

from batchwright.cli.app import run
from batchwright.core.records import read_records

QUICK = ["rl", "lqg", "--delta", "0.9", "--budget", "8000", "--bound", "bernstein", "--option", "value_range=empirical"]


def test_a_run_says_what_is_guaranteed_and_what_came(capsys, tmp_path: Path):
    assert run(["rl", "lqg", "--delta", "0.5", "--budget", "8000", "--out", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "lowers the expected discounted return over 20 steps (discount 0.9) with probability at most 0.5" in out
    assert "no reward is larger than 4 in size" in out
    assert "8,000 trajectories" in out
    assert all("true_return" in line for line in read_records(tmp_path / "a").of_kind("update"))


def test_json_is_one_document_and_a_second_run_needs_resume(capsys, tmp_path: Path):
    out = ["--out", str(tmp_path / "a")]
    assert run([*QUICK, *out, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "rl"
    result = document["result"]
    assert 7900 < result["num_trajectories"] <= 8000  # what is left is less than the least batch
    assert result["guarantee"]["holds"] is False
    assert result["last_return"]["value"] > -20
    assert len(result["theta"]) == 1
    assert run([*QUICK, *out]) == 2
    assert "resume it" in capsys.readouterr().err
    longer = [word if word != "8000" else "12000" for word in QUICK]
    assert run([*longer, *out, "--resume", "--json"]) == 0
    assert 11_900 < json.loads(capsys.readouterr().out)["result"]["num_trajectories"] <= 12_000


def test_discrete_and_several_dimensions(capsys, tmp_path: Path):
    pytest.importorskip("gymnasium")
    cart = ["rl", "CartPole-v1", "--budget", "200", "--horizon", "50", "--constants", "observed"]
    assert run([*cart, "--out", str(tmp_path / "cart"), "--num-envs", "8"]) == 0
    assert "No guarantee" in capsys.readouterr().out
    two = ["rl", "lqg-2", "--budget", "400", "--actor", "linear", "--learn-std", "--option", "union=true"]
    assert run([*two, "--out", str(tmp_path / "two"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["result"]["theta"]) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rl", "lqg"], ["--out must name a folder"]),
        (["rl", "nothing-v7", "--out", "x"], ["nothing-v7"]),
        (["rl", "lqg", "--out", "x", "--actor", "deep"], ["--actor must be linear, or network:", "deep"]),
        (["rl", "lqg", "--out", "x", "--actor", "network:4"], ["--actor must have smoothing constants"]),
        (["rl", "lqg", "--out", "x", "--delta", "2"], ["--delta must be"]),
        (["rl", "lqg", "--out", "x", "--option", "speed=3"], ["--option must be name=value", "speed=3"]),
        (["rl", "lqg", "--out", "x", "--option", "growth=fast"], ["--option growth", "fast"]),
        (["rl", "lqg", "--out", "x", "--resume"], ["--out must hold a run to resume"]),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(capsys, tmp_path: Path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1, err
    for word in words:
        assert word in err
