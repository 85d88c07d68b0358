"""The study of safe policy gradients: its arithmetic by hand, and a whole run in seconds."""

import numpy as np
import pytest
from scipy.stats import binomtest

from batchwright.core.serialization import to_plain
from batchwright.core.study_record import StudyRecord
from batchwright.studies import run_study
from batchwright.studies.registry import REGISTRY
from batchwright.studies.safe_pg.guarantee_rows import binomial_tail, exact_interval, guarantee_rows, updates_of
from batchwright.studies.safe_pg.presets import PRESETS, cells
from batchwright.studies.safe_pg.published import RUNS
from batchwright.studies.safe_pg.study import SAFE_PG


def test_names_of_cells_are_unique_and_runs_follow_the_seed():
    assert REGISTRY["safe-pg"] is SAFE_PG
    for preset in PRESETS:
        names = [cell.name for cell in cells(preset, 0)]
        assert len(set(names)) == len(names)
    laptop = {cell.name: cell.arguments for cell in cells("laptop", 3)}
    assert laptop["table/chebyshev-0.95/seed-3"]["budget"] == 30_000_000
    assert {name.split("/")[1] for name in laptop if name.startswith("table/")} == set(RUNS)


def test_the_laptop_preset_asks_for_a_thousand_updates():
    counts = [cell.arguments["count"] for cell in cells("laptop", 0) if cell.name.startswith("updates/")]
    assert sum(counts) == 1000


@pytest.mark.parametrize(("number", "failures"), [(100, 0), (100, 31), (20, 20), (7, 3)])
def test_the_binomial_test_and_interval_are_scipys(number, failures):
    test = binomtest(failures, number, 0.2, alternative="greater")
    assert binomial_tail(number, failures, 0.2) == pytest.approx(test.pvalue)
    wanted = binomtest(failures, number).proportion_ci(0.95, "exact")
    found = exact_interval(number, failures)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def part(gains: list[float], seed: int = 0) -> dict:
    return {
        "arguments": {"seed": seed},
        "delta": 0.2,
        "moved": [gain != 0 for gain in gains],
        "gain": gains,
        "low": gains,
        "high": gains,
        "promise": [0.5] * len(gains),
        "error_bound": [2.0] * len(gains),
        "error": [1.0 if gain else None for gain in gains],
        "batch_size": [100] * len(gains),
    }


def test_updates_that_lower_the_return_are_counted_and_a_broken_promise_does_not_hold():
    results = {
        "updates/dim-1/chebyshev/from-0": part([1.0, -1.0, 0.0, 2.0]),
        "updates/dim-1/chebyshev/from-4": part([1.0] * 4),
    }
    found = updates_of(results, 1, "chebyshev")
    assert found.moved.sum() == 7
    assert found.lower.sum() == 1
    np.testing.assert_allclose(np.sort(found.ratio), [-2, 2, 2, 2, 2, 2, 4])
    np.testing.assert_allclose(found.error_ratio, 0.5)
    assert [row.verdict for row in guarantee_rows(results) if "share of 7 updates" in row.what] == ["not resolved"] * 2
    # One of 7 at most 0.2? Its interval reaches to 0.58, so seven updates do not say; forty without a failure do.
    many = {"updates/dim-1/chebyshev/from-0": part([1.0] * 40)}
    assert {row.verdict for row in guarantee_rows(many) if "share of 40 updates" in row.what} == {"holds"}
    broken = {"updates/dim-1/chebyshev/from-0": part([-1.0] * 10 + [1.0] * 10)}
    assert "does not hold" in {row.verdict for row in guarantee_rows(broken) if "share of 20 updates" in row.what}


def test_a_whole_run_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("batchwright.studies.runner.PRESETS", ("tiny",))
    record = run_study(SAFE_PG, preset="tiny", out=tmp_path, num_workers=1)
    assert isinstance(record, StudyRecord)
    assert not record.failures
    closed = [row for row in record.rows if row.group == "Closed forms"]
    assert len(closed) == 14
    assert {row.verdict for row in closed} == {"holds"}
    assert {figure.name for figure in record.figures} == {"curves", "audit", "promise"}
    again = run_study(SAFE_PG, preset="tiny", out=tmp_path, num_workers=1, resume=True)
    assert to_plain(again.rows) == to_plain(record.rows)
