"""Runs of safe policy gradients on the page: read from real records, and told with their promise."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from batchwright.core.errors import RecordError
from batchwright.report import write_report
from batchwright.report.any_records import read_any
from batchwright.report.collect import collect
from batchwright.report.rl_sections import _first_return
from batchwright.rl import LQG, GaussianPolicy, SafePolicyGradient
from batchwright.rl.lqg_exact import clipped_return


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in (0, 1):
        SafePolicyGradient(
            LQG(),
            GaussianPolicy(1, 1),
            delta=0.5,
            budget=12_000,
            seed=seed,
            evaluate=lambda policy: float(clipped_return(LQG(), policy.theta)),
        ).train(tmp_path / f"run-{seed}", label="one label")
    return tmp_path


def test_a_run_is_read_as_it_was_recorded(folder: Path):
    found = read_any(folder / "run-0", "run-0")
    run = SafePolicyGradient(LQG(), GaussianPolicy(1, 1), delta=0.5, budget=12_000).train()
    assert [point.batch_size for point in found.updates] == [update.batch_size for update in run.updates]
    assert found.promised == pytest.approx(sum(update.guaranteed_improvement for update in run.updates))
    assert (found.num_updates, found.num_moves) == (len(run.updates), run.num_moves)
    # What came of an update is known by the next batch.
    assert found.updates[0].realised == run.updates[1].realised
    assert found.updates[-1].realised is None
    assert found.num_true_decreases == 0
    assert found.holds
    assert found.delta == pytest.approx(0.5)


def test_the_page_of_one_run_tells_promise_course_and_updates(folder: Path):
    page = write_report(folder / "run-0").read_text()
    assert "lqg: discounted return from" in page
    assert "What is guaranteed" in page
    assert "with probability at most 0.5" in page
    assert "no reward is larger than 4" in page
    for words in ("discounted return", "batch size (trajectories)", "improvement since the start", "0 true"):
        assert words in page


def test_the_page_of_several_runs_tells_one_promise_once(folder: Path):
    page = write_report(folder).read_text()
    assert page.count("with probability at most 0.5") == 1
    assert "one label, seed 1" in page
    assert "run-1" in page


def test_damaged_records_are_told_and_the_rest_is_shown(folder: Path):
    path = folder / "run-1" / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[1]["batch_size"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RecordError, match="KeyError"):
        read_any(folder / "run-1", "run-1")
    collected = collect(folder)
    assert [run.folder for run in collected.rl] == ["run-0"]
    assert "run-1" in collected.warnings[0]


def test_a_run_that_has_just_begun_makes_a_page(folder: Path):
    path = folder / "run-0" / "records.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert "without an update" in write_report(folder / "run-0").read_text()


def test_improvement_counts_from_every_batch_of_the_first_policy(folder: Path):
    found = read_any(folder / "run-0", "run-0")
    moved = next(place for place, point in enumerate(found.updates) if point.step_size > 0)
    still = found.updates[: moved + 1]
    assert moved > 0
    mean = sum(point.batch_size * point.mean_return for point in still) / sum(point.batch_size for point in still)
    assert _first_return(found) == pytest.approx(mean)
    assert _first_return(replace(found, updates=found.updates[:1])) == found.updates[0].mean_return
