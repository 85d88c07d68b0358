"""The study of associative memory: its arithmetic by hand, and a whole run in seconds."""

import math

import numpy as np
import pytest

from batchwright.core.serialization import to_plain
from batchwright.core.study_record import StudyRecord
from batchwright.report import write_report
from batchwright.studies import run_study
from batchwright.studies.associative_memory.batch_summary import saturation
from batchwright.studies.associative_memory.presets import PRESETS, cells
from batchwright.studies.associative_memory.rows import slope_interval
from batchwright.studies.associative_memory.study import ASSOCIATIVE_MEMORY
from batchwright.studies.registry import REGISTRY


def test_the_slope_interval_covers_a_known_slope():
    generator = np.random.default_rng(0)
    dims = {32: 10, 64: 10, 128: 10, 256: 5, 512: 3}
    covered = 0
    for _ in range(400):
        found = slope_interval({d: list(d**1.25 * np.exp(generator.normal(0, 0.1, size=n))) for d, n in dims.items()})
        covered += found.low <= 1.25 <= found.high
    # Binomial: 380 expected, standard deviation 4.4.
    assert 362 <= covered <= 396


def test_an_exact_slope_and_what_has_none():
    exact = slope_interval({2: [4.0, 4.0], 4: [16.0, 16.0]})
    assert exact.value == pytest.approx(2.0)
    assert exact.low == exact.high
    assert slope_interval({2: [4.0, 4.0]}) is None
    assert slope_interval({2: [4.0], 4: [16.0]}) is None
    assert slope_interval({2: [4.0, 0.0], 4: [16.0, 16.0]}) is None


def test_saturation_is_read_between_the_sizes():
    assert saturation([1, 4, 16, 64], [0, 20, 80, 100], 0.5) == pytest.approx(8.0)
    assert saturation([1, 4], [9, 9], 0.85) == 1.0
    assert saturation([1, 4, 16], [0, 85, 100], 0.85) == pytest.approx(4.0)


def test_names_of_cells_are_unique_and_the_draws_follow_the_seed():
    assert REGISTRY["associative-memory"] is ASSOCIATIVE_MEMORY
    for preset in PRESETS:
        names = [cell.name for cell in cells(preset, 0)]
        assert len(set(names)) == len(names)
    shifted = {cell.name: cell.arguments["seeds"] for cell in cells("laptop", 7)}
    assert shifted["capacity/alpha-2/d-32"] == tuple(range(7, 17))
    assert shifted["capacity/alpha-2/d-512/seed-9"] == (9,)


def test_a_whole_run_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("batchwright.studies.runner.PRESETS", ("tiny",))
    record = run_study(ASSOCIATIVE_MEMORY, preset="tiny", out=tmp_path, num_workers=1)
    assert not record.failures
    again = run_study(ASSOCIATIVE_MEMORY, preset="tiny", out=tmp_path, num_workers=1, resume=True)
    assert to_plain(again.rows) == to_plain(record.rows)
    assert isinstance(record, StudyRecord)
    measured = {row.what: row for row in record.rows}
    muon = measured["Muon, exact polar: slope of the count, alpha=2, d=32-64"]
    assert muon.published == 1.25
    assert 0.9 < muon.measured.value < 1.6
    assert all(math.isfinite(row.measured.value) for row in record.rows)
    assert {figure.name for figure in record.figures} == {"capacity", "batch-size", "depth", "softmax"}
    page = write_report(tmp_path)
    assert "associative" in page.read_text(encoding="utf-8").lower()
