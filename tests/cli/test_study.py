"""``batchwright study`` from a shell's point of view."""

import json
from pathlib import Path

import pytest

from batchwright.cli.app import run

QUICK = ["--only", "boundary", "--workers", "1"]


def one_line(capsys, arguments: list[str], *words: str) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study", "nothing"], ["NAME must be one of", "eoss", "nothing"]),
        (["study"], ["one NAME or --all"]),
        (["study", "eoss", "--all"], ["one NAME or --all"]),
        (["study", "eoss", "--preset", "huge"], ["--preset must be one of smoke, laptop, paper", "huge"]),
        (["study", "eoss", "--only", "nothing"], ["--only must be part of a cell's name", "boundary/heavy-ball"]),
        (["study", "eoss", "--seed", "-1"], ["--seed"]),
        (["study", "eoss", "--device", "abacus"], ["--device must be", "abacus"]),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(capsys, tmp_path: Path, arguments, words):
    one_line(capsys, [*arguments, "--out", str(tmp_path / "out")], *words)


def test_the_paper_preset_asks_for_its_data(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    one_line(capsys, ["study", "eoss", "--preset", "paper", "--out", str(tmp_path)], "--data-root")


def test_json_is_one_document_and_a_second_run_needs_resume(capsys, tmp_path: Path):
    out = ["--out", str(tmp_path / "a")]
    assert run(["study", "eoss", *QUICK, *out, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "study"
    assert {row["verdict"] for row in document["result"]["studies"]["eoss"]["rows"]} == {"holds"}
    assert document["cost"]["studies"]["eoss"]["seconds"] > 0
    one_line(capsys, ["study", "eoss", *QUICK, *out], "--resume")
    assert run(["study", "eoss", *QUICK, *out, "--resume"]) == 0
    assert "2 holds" in capsys.readouterr().out


def test_all_puts_each_study_into_a_folder_of_its_own(capsys, tmp_path: Path, monkeypatch):
    from dataclasses import replace

    from batchwright.studies import registry

    eoss = registry.REGISTRY["eoss"]
    monkeypatch.setattr(registry, "REGISTRY", {"eoss": eoss, "again": replace(eoss, name="again")})
    assert run(["study", "--all", *QUICK, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "eoss" / "study.json").exists()
    assert (tmp_path / "again" / "study.json").exists()
    assert run(["report", str(tmp_path), "--json"]) == 0


def test_one_study_that_cannot_run_does_not_stop_the_others(capsys, tmp_path: Path, monkeypatch):
    from dataclasses import replace

    from batchwright.studies import registry

    lost = replace(registry.REGISTRY["eoss"], name="lost", needs_data=("smoke",))
    monkeypatch.setattr(registry, "REGISTRY", {"lost": lost, **registry.REGISTRY})
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    assert run(["study", "--all", *QUICK, "--out", str(tmp_path)]) == 1
    assert "lost: --data-root must name" in capsys.readouterr().err
    assert (tmp_path / "eoss" / "study.json").exists()


def test_options_of_one_study(capsys, tmp_path: Path, monkeypatch):
    from batchwright.studies.critical_batch import presets

    one_line(
        capsys, ["study", "eoss", "--task", "digits-mlp", "--out", str(tmp_path)], "--task must be an option", "eoss"
    )
    one_line(capsys, ["study", "--all", "--optimizer", "sgd"], "--optimizer must go with one study, got --all")
    one_line(
        capsys, ["study", "critical-batch", "--task", "nothing", "--out", str(tmp_path)], "task must be", "nothing"
    )
    one_line(
        capsys, ["study", "critical-batch", "--optimizer", "newton", "--out", str(tmp_path)], "--optimizer", "newton"
    )
    tiny = presets.Preset(factors=(0.5, 1.0, 2.0), num_seeds=2, strides=(1.0,), judges=64)
    monkeypatch.setitem(presets.PRESETS, "smoke", tiny)
    out = ["--workers", "1", "--out", str(tmp_path / "a")]
    arguments = ["study", "critical-batch", "--task", "digits-mlp", "--optimizer", "sgd", *out]
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["result"]["studies"]["critical-batch"]
    assert found["rows"][0]["what"] == "sgd: critical batch size, in examples"
    assert found["notes"][0].startswith("Task digits-mlp")
    one_line(capsys, [*arguments[:-4], "--preset", "race", *out, "--resume"], "--out must hold the study")
