"""Searches on the page: read from a real journal, and drawn with what is eliminated and the optima."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests import tuning_functions as functions

import batchwright as bw
from batchwright.core.errors import RecordError
from batchwright.report import write_report
from batchwright.report.any_records import read_any
from batchwright.report.collect import collect
from batchwright.report.figures.tuning import _colorbar, profile_figure, slice_figure


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searches")
    with ThreadPoolExecutor(1) as executor:
        found = bw.tune(
            functions.bowl,
            "x=0:1,rate=log:1e-3:1",
            rounds=2,
            parallel=8,
            robust="10%",
            out=folder / "a",
            executor=executor,
        )
    return folder, found


def test_a_search_is_read_as_it_was_written(searched):
    folder, found = searched
    read = read_any(folder / "a", "a")
    assert dict(read.values) == dict(found.values)
    assert dict(read.plain) == dict(found.plain.values)
    assert read.expected.value == found.best.mean
    assert read.worst == found.best.worst
    assert [trial.value for trial in read.trials] == [trial.outcome.value for trial in found.trials]
    assert [number for number, _, _ in read.course] == [8, 16]
    assert read.lines == found.lines
    assert read.ended


def test_the_slice_holds_the_model_and_what_is_eliminated(searched):
    read = read_any(searched[0] / "a", "a")
    drawn = slice_figure(read)
    assert [view.name for view in drawn.views] == ["posterior mean", "uncertainty", "worst when off"]
    assert all(len(view.visible) == len(drawn.plot.data) for view in drawn.views)
    names = [trace.name for trace in drawn.plot.data]
    assert "recommended" in names
    assert "trial" in names
    # The recommended setting survives, and the worst is never better than the mean.
    view = read.slice.view
    assert 0 < sum(view.alive) <= len(view.alive)
    assert all(worst >= mean - 1e-4 for worst, mean in zip(view.worst, view.mean, strict=True))
    assert len(profile_figure(read).plot.data) >= 2 * 4


def test_the_page_tells_the_recommendation_first(searched):
    folder, found = searched
    page = write_report(folder / "a").read_text()
    for words in ("bowl: x", "Search of bowl", "Worst when off", "The optima of the model", "Along each setting"):
        assert words in page
    assert found.lines[0] in page


def test_a_search_that_has_just_begun_or_is_damaged_makes_a_page(searched, tmp_path: Path):
    lines = (searched[0] / "a" / "records.jsonl").read_text().splitlines()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "records.jsonl").write_text("\n".join(lines[:4]) + "\n")
    assert "has not finished a round" in write_report(tmp_path / "begun").read_text()
    (tmp_path / "damaged").mkdir()
    broken = [json.loads(line) for line in lines]
    next(line for line in broken if line["kind"] == "picture")["slice"]["mean"] = [1.0]
    last = [line for line in broken if line["kind"] == "picture"][-1]
    last["slice"]["mean"] = [1.0]
    (tmp_path / "damaged" / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in broken))
    with pytest.raises(RecordError, match="a view must hold"):
        read_any(tmp_path / "damaged", "damaged")
    collected = collect(tmp_path)
    assert [search.folder for search in collected.tuning] == ["begun"]
    assert "damaged" in collected.warnings[0]


def test_a_colour_bar_of_a_narrow_range_carries_the_metric_and_not_its_logarithm():
    values = (0.519, 0.53, 0.56)  # no four round ticks lie between
    bar = _colorbar(values, "loss", log=True)
    assert bar["tickvals"][0] == pytest.approx(math.log10(0.519))
    assert bar["tickvals"][-1] == pytest.approx(math.log10(0.56))
    assert [float(text) for text in bar["ticktext"]] == pytest.approx([10**each for each in bar["tickvals"]], rel=5e-3)
    assert "tickvals" not in _colorbar(values, "loss", log=False)
