"""The study of batched bandits: its functions, and a whole run in seconds."""

import math

import torch

from batchwright.bandits import Kernel
from batchwright.core.serialization import to_plain
from batchwright.report import write_report
from batchwright.studies import run_study
from batchwright.studies.batched_bandits.presets import PRESETS, cells
from batchwright.studies.batched_bandits.problem import draw, grid
from batchwright.studies.batched_bandits.study import BATCHED_BANDITS
from batchwright.studies.registry import REGISTRY


def test_the_functions_are_draws_of_the_prior():
    points, kernel = grid(8), Kernel(lengthscales=(2.0,))
    draws = torch.stack([draw(points, kernel, seed) for seed in range(2000)])
    covariance = kernel(points, points)
    error = (draws.T @ draws / 2000 - covariance).abs()
    # Wick: the variance of a product is 1 + k², over 2000; 5 standard errors over 2080 pairs.
    assert float((error / ((1 + covariance.square()) / 2000).sqrt()).max()) < 5
    assert torch.equal(draw(points, kernel, 3), draws[3])


def test_names_of_cells_are_unique_and_the_functions_follow_the_seed():
    assert REGISTRY["batched-bandits"] is BATCHED_BANDITS
    for preset in PRESETS:
        names = [cell.name for cell in cells(preset, 0)]
        assert len(set(names)) == len(names)
    shifted = {cell.name: cell.arguments.get("seeds") for cell in cells("laptop", 7)}
    assert shifted["regret/se/beta-6/batches-2"] == tuple(range(7, 47))


def test_a_whole_run_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("batchwright.studies.runner.PRESETS", ("tiny",))
    record = run_study(BATCHED_BANDITS, preset="tiny", out=tmp_path, num_workers=1)
    assert not record.failures
    again = run_study(BATCHED_BANDITS, preset="tiny", out=tmp_path, num_workers=1, resume=True)
    assert to_plain(again.rows) == to_plain(record.rows)
    measured = {row.what: row for row in record.rows}
    assert measured["share of 12 lists and numbers of batches that agree"].verdict == "holds"
    assert all(math.isfinite(row.measured.value) for row in record.rows)
    assert {figure.name for figure in record.figures} == {"batches", "horizon", "methods"}
    assert any("GP-BUCB" in note for note in record.notes)
    page = write_report(tmp_path)
    assert "Batched Kernelized Bandits" in page.read_text(encoding="utf-8")
