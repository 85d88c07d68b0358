import math
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

from batchwright.report import collect, run_rows, summarise


def test_summary_is_mean_and_student_interval_over_the_seeds_of_a_label(
    tmp_path: Path, run_writer: Callable[..., Path]
):
    needs = [30000.0, 33000.0, 31500.0]
    for seed, need in enumerate(needs):
        run_writer(tmp_path / f"r{seed}", seed=seed, to_target=need)
    (row,) = summarise(collect(tmp_path).runs)
    low, high = stats.t.interval(0.95, 2, loc=31500.0, scale=stats.sem(needs))
    assert row.examples is not None
    assert row.steps is not None
    assert (row.examples.value, row.examples.low, row.examples.high) == pytest.approx((31500.0, low, high))
    assert row.steps.value == pytest.approx(31500.0 / 128)
    assert (row.num_runs, row.num_reached, row.num_not_reached, row.num_unfinished) == (3, 3, 0, 0)


def test_runs_that_fell_short_are_counted_and_not_averaged(tmp_path: Path, run_writer: Callable[..., Path]):
    run_writer(tmp_path / "a", seed=0, to_target=30000.0)
    run_writer(tmp_path / "b", seed=1, to_target=None, reason="limit")
    run_writer(tmp_path / "c", seed=2, to_target=None, reason="failed")
    run_writer(tmp_path / "d", seed=3, to_target=None, reason="interrupted")
    run_writer(tmp_path / "e", seed=4, to_target=None, reason="")
    (row,) = summarise(collect(tmp_path).runs)
    assert row.examples is not None
    assert row.examples.value == 30000.0
    assert (row.examples.low, row.examples.high) == (-math.inf, math.inf)
    assert (row.num_runs, row.num_reached, row.num_not_reached, row.num_unfinished) == (5, 1, 2, 2)


def test_label_that_never_reached_its_target_has_no_mean(tmp_path: Path, run_writer: Callable[..., Path]):
    run_writer(tmp_path / "a", to_target=None, reason="limit")
    (row,) = summarise(collect(tmp_path).runs)
    assert row.examples is None
    assert row.seconds is None
    assert row.final is not None


def test_rows_follow_task_label_and_seed(tmp_path: Path, run_writer: Callable[..., Path]):
    for label, seed in (("batch-256", 0), ("batch-64", 1), ("batch-64", 0)):
        run_writer(tmp_path / f"{label}-{seed}", label=label, seed=seed)
    rows = run_rows(collect(tmp_path).runs)
    assert [(row.label, row.seed) for row in rows] == [("batch-64", 0), ("batch-64", 1), ("batch-256", 0)]
    assert rows[0].metric == "accuracy"
    assert rows[0].standard_error == 0.0081
    assert rows[0].outcome == "reached"


def test_adaptive_run_tells_its_first_and_last_batch_size(tmp_path: Path, run_writer: Callable[..., Path]):
    run_writer(tmp_path, batch_size=32, adaptive=True)
    (row,) = run_rows(collect(tmp_path).runs)
    assert (row.batch_size, row.last_batch_size) == (32.0, 256.0)
    (summary,) = summarise(collect(tmp_path).runs)
    assert (summary.batch_sizes, summary.last_batch_sizes) == ((32.0,), (256.0,))


def test_no_runs_give_no_rows():
    assert summarise(()) == ()
