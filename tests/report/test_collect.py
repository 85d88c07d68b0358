import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchwright.core.errors import RecordError
from batchwright.core.records import write_json
from batchwright.report import collect

Maker = Callable[..., dict[str, Any]]
Writer = Callable[..., Path]


def test_finds_everything_at_any_depth_the_shallowest_first(realistic: Path, run_writer: Writer):
    run_writer(realistic / "deep" / "er" / "still", label="deep")
    found = collect(realistic)
    assert list(found.plans) == ["plan.json"]
    assert list(found.verifications) == ["verification.json"]
    assert list(found.studies) == ["study.json"]
    assert len(found.runs) == 26
    assert found.runs[0].folder == "runs/adaptive-0"
    assert found.runs[-1].folder == "deep/er/still"
    assert found.warnings == ()


def test_does_not_enter_checkpoints_hidden_or_too_deep_folders(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path / "run")
    run_writer(tmp_path / "run" / "checkpoints" / "x")
    run_writer(tmp_path / ".hidden")
    run_writer(tmp_path.joinpath(*"abcdefghijkl"))
    assert [run.folder for run in collect(tmp_path).runs] == ["run"]


def test_run_in_the_folder_itself_is_found(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path)
    assert [run.folder for run in collect(tmp_path).runs] == ["."]


def test_torn_last_line_is_passed_over_with_a_warning(tmp_path: Path, run_writer: Writer):
    folder = run_writer(tmp_path / "run", reason="")
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"kind": "step", "schema": 1, "st')
    found = collect(tmp_path)
    assert found.runs[0].num_torn == 1
    assert found.runs[0].reason == "no end"
    assert "run: a line that a kill left unfinished" in found.warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json\n",
        '{"kind": "step", "schema": 1}\n',
        '{"kind": "start", "schema": 99}\n',
        '{"kind": "start", "schema": 1}\n',
        '{"kind": "start", "schema": 1, "task": "t", "label": "l", "seed": 0, "batch_size": 0}\n',
        '{"kind": "start", "schema": 1, "task": "t", "label": "l", "seed": 0, "batch_size": "many"}\n',
        '{"kind": "start", "schema": 1, "task": "t", "label": "l", "seed": ' + "9" * 5000 + ', "batch_size": 1}\n',
        '{"kind": "start", "schema": 1, "task": "t", "label": "l", "seed": 0, "batch_size": 8}\n{"kind": "evaluation", "schema": 1}\n',
        '{"kind": "resume", "schema": 1, "step": "x"}\n',
        "[" * 100_000 + "\n",
    ],
)
def test_damaged_run_becomes_a_warning_beside_a_whole_one(tmp_path: Path, run_writer: Writer, text: str):
    run_writer(tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "records.jsonl").write_text(text)
    found = collect(tmp_path)
    assert [run.folder for run in found.runs] == ["whole"]
    (warning,) = found.warnings
    assert warning.startswith("broken/records.jsonl is left out")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 3},
        {"schema": "1"},
        {"batch_size": 0},
        {"batch_size": "128"},
        {"lr": "high"},
        {"intervals": {"lr": {"value": 1, "low": 2, "high": 3}}},
        {"intervals": {"lr": 3}},
        {"evidence": {"noise": [{"step": 1}]}},
    ],
)
def test_damaged_plan_becomes_a_warning(tmp_path: Path, plan_maker: Maker, run_writer: Writer, changes: dict[str, Any]):
    run_writer(tmp_path / "run")
    write_json(tmp_path / "plan.json", plan_maker(**changes))
    found = collect(tmp_path)
    assert not found.plans
    assert found.warnings[0].startswith("plan.json is left out")


def test_plan_with_its_bare_essentials_is_read(tmp_path: Path):
    write_json(tmp_path / "plan.json", {"task": "t", "batch_size": 100, "micro_batch_size": 30, "lr": 1})
    (plan,) = collect(tmp_path).plans.values()
    assert plan.num_micro_batches == 4


def test_run_records_hold_what_was_written(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path, seed=3, batch_size=32, adaptive=True, to_target=24000.0)
    (run,) = collect(tmp_path).runs
    assert (run.task, run.label, run.seed, run.policy, run.lr) == ("digits-cnn", "plan", 3, "noise-scale", 0.2104)
    assert [decision.batch_size for decision in run.decisions] == [64.0, 128.0, 256.0]
    assert run.to_target is not None
    assert run.to_target.examples == 24000.0
    assert run.target is not None
    assert run.target.value == 0.97
    assert run.evaluations[-1].num_examples == 24000.0


def test_long_runs_are_thinned_but_keep_their_ends(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path, num_records=3000, to_target=90000.0)
    (run,) = collect(tmp_path).runs
    assert len(run.evaluations) == 400
    assert run.evaluations[0].num_examples == 0
    assert run.evaluations[-1].num_examples == 90000.0


@pytest.mark.parametrize("content", [{}, {"plan.json": "{"}, {"study.json": "[]"}])
def test_nothing_to_read_is_one_clear_line(tmp_path: Path, content: dict[str, str]):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RecordError, match=r"must hold one of plan\.json, .*, got n") as caught:
        collect(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_study_that_has_not_ended_is_told_and_is_no_damaged_run(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path / "a")
    (tmp_path / "b").mkdir()
    lines = [{"kind": "start", "schema": 1, "study": "eoss", "preset": "smoke", "seed": 0}]
    lines += [{"kind": "cell", "schema": 1, "name": f"cell-{i}"} for i in range(2)]
    (tmp_path / "b" / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = collect(tmp_path)
    assert len(found.runs) == 1
    assert found.warnings == ("b: the study eoss has finished 2 cells; its rows and figures come when it ends",)


def test_missing_folder_is_one_clear_line(tmp_path: Path):
    with pytest.raises(RecordError, match="must be a folder with plans or runs, got no such folder"):
        collect(tmp_path / "nowhere")


def test_non_finite_numbers_are_read_from_their_strings(tmp_path: Path, plan_maker: Maker):
    plan = plan_maker()
    plan["intervals"]["noise_scale"] = {"value": "inf", "low": 30, "high": "inf", "level": 0.95}
    (tmp_path / "plan.json").write_text(json.dumps(plan, default=str).replace("Infinity", '"inf"'))
    (found,) = collect(tmp_path).plans.values()
    assert found.intervals["noise_scale"].high == float("inf")
