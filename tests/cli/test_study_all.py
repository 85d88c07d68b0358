"""``batchwright study --all``: one page with a row a paper, resumable, and a failing study stops no other."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchwright.cli.app import run
from batchwright.core.statistics import Interval
from batchwright.core.study_record import Level, Panel, Row, Series, StudyFigure
from batchwright.report import collect
from batchwright.studies import registry
from batchwright.studies.study import Cell, Place, Study, Summary

CALLS: list[str] = []


def count_up(place: Place, name: str, value: float) -> dict[str, Any]:
    CALLS.append(name)
    if name in BROKEN:
        raise ValueError(f"{name} cannot be computed")
    return {"value": value, "num_gradients": 10}


BROKEN: set[str] = set()


def study_of(name: str, verdict: str, value: float, headline: str = "the number") -> Study:
    def cells(preset: str, seed: int) -> list[Cell]:
        return [
            Cell(name=f"{name}-{i}", run=count_up, arguments={"name": f"{name}-{i}", "value": value}) for i in (0, 1)
        ]

    def summarise(preset: str, results: Any) -> Summary:
        if verdict == "breaks":
            raise RuntimeError("the summary <b>broke</b>")
        found = [float(result["value"]) for result in results.values()]
        rows = [
            Row(
                what="the number", group="Main", claim="it is one", published=1.0, seeds=(0, 1, 2), verdict=verdict,
                measured=Interval(value=sum(found) / len(found), low=0.5, high=2.5) if found else None, low=0.0, high=2.0,
            ),
            Row(what="aside", group="More", claim="", published=None, measured=None, seeds=(), low=0, high=1, verdict="holds"),
        ]  # fmt: skip
        panel = Panel(
            title="",
            x_name="x",
            y_name="y",
            series=(Series(name="s", x=(1.0, 2.0), y=(1.0, 2.0)),),
            levels=(Level(y=1.0, name="l"),),
        )
        figure = StudyFigure(name="f", title=f"Figure of {name}", caption="c", panels=(panel,))
        return Summary(rows=tuple(rows), figures=(figure,))

    return Study(name=name, title=f"Paper {name}", source="nobody", cells=cells, summarise=summarise, headline=headline)


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = ["holds", "holds", "does not hold", "not resolved", "not there yet", "breaks", "holds", "holds"]
    studies = [study_of(f"paper-{i}", verdict, 1.0 + i / 10) for i, verdict in enumerate(verdicts)]
    studies[7] = replace(studies[7], needs_data=("smoke",))
    monkeypatch.setattr(registry, "REGISTRY", {study.name: study for study in studies})
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    CALLS.clear()
    BROKEN.clear()


def all_of(folder: Path, *more: str) -> list[str]:
    return ["study", "--all", "--preset", "smoke", "--workers", "1", "--out", str(folder), *more]


def rows_of(page: str) -> dict[str, list[str]]:
    """The table of papers: the text of each cell by the first."""
    part = page[page.index('id="studies"') :]
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    rows = [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in body.split("</tr>")
    ]
    return {row[0]: row[1:] for row in rows if row}


def test_one_page_has_a_row_a_paper_with_all_that_is_asked_of_it(eight, capsys, tmp_path):
    assert run(all_of(tmp_path)) == 1  # two of them cannot be done
    out, err = capsys.readouterr()
    assert f"One page of all: {tmp_path / 'report.html'}" in out.replace("\n", "")
    assert "paper-5: the summary <b>broke</b>" in err
    assert "paper-7: --data-root must name" in err
    page = (tmp_path / "report.html").read_text()
    rows = rows_of(page)
    assert list(rows) == [*(f"paper-{i}" for i in (0, 1, 2, 3, 4, 6)), "paper-5", "paper-7"]
    claim, published, measured, verdict, counts, seeds, cost, cells = rows["paper-2"]
    assert claim == "the number; it is one"
    assert (published, measured) == ("1", "1.2 (0.5–2.5)")
    assert (verdict, counts) == ("does not hold", "1 holds, 1 does not hold")
    assert (seeds, cells) == ("0, 1, 2", "2 of 2")
    assert re.fullmatch(r"[\d.,]+ (?:µs|ms|s|min|h)", cost)
    assert [rows[f"paper-{i}"][3] for i in range(8)] == [
        "holds", "holds", "does not hold", "not resolved", "not there yet", "failed", "holds", "failed",
    ]  # fmt: skip
    assert "the summary &lt;b&gt;broke&lt;/b&gt;" in rows["paper-5"][4]
    assert "8 studies by their main claims: holds 3, does not hold 1, not resolved 1, not there yet 1, failed 2" in page
    # From each row to its own section, with all rows and figures.
    part = page[page.index('id="studies"') :]
    for anchor in re.findall(r'<a href="#(study-\d+)"', part[: part.index("</tbody>")]):
        assert f'<section id="{anchor}"' in page
    assert page.count("Figure of paper-") >= 6


def test_the_page_and_the_set_come_back_from_disk(eight, capsys, tmp_path):
    run(all_of(tmp_path))
    capsys.readouterr()
    (found,) = collect(tmp_path).sets.values()
    assert [entry.study for entry in found.entries if entry.error] == ["paper-5", "paper-7"]
    assert run(["report", str(tmp_path)]) == 0
    assert rows_of((tmp_path / "report.html").read_text())["paper-7"][3] == "failed"


def test_it_resumes_where_it_was_stopped(eight, capsys, tmp_path, monkeypatch):
    registry.REGISTRY.pop("paper-5")
    registry.REGISTRY.pop("paper-7")
    BROKEN.add("paper-3-1")
    assert run(all_of(tmp_path)) == 1
    page = (tmp_path / "report.html").read_text()
    assert rows_of(page)["paper-3"][7] == "1 of 2, 1 failed"
    assert "paper-3-1 cannot be computed" in page
    capsys.readouterr()
    BROKEN.clear()
    CALLS.clear()
    assert run(all_of(tmp_path)) == 1  # each is there already
    assert CALLS == []
    assert "--resume" in capsys.readouterr().err
    assert run(all_of(tmp_path, "--resume", "--json")) == 0
    assert CALLS == ["paper-3-1"]
    document = json.loads(capsys.readouterr().out)
    assert set(document["result"]["studies"]) == set(registry.REGISTRY)
    assert document["result"]["page"] == str(tmp_path / "report.html")
    assert document["cost"]["seconds"] >= sum(each["seconds"] for each in document["cost"]["studies"].values()) * 0.999
    assert rows_of((tmp_path / "report.html").read_text())["paper-3"][7] == "2 of 2"


def test_a_study_whose_main_row_is_not_there_says_so(eight, tmp_path, monkeypatch):
    two = {name: study_of(name, "holds", 1.0, headline="another") for name in ("one", "two")}
    monkeypatch.setattr(registry, "REGISTRY", two)
    assert run(all_of(tmp_path)) == 0
    rows = rows_of((tmp_path / "report.html").read_text())
    assert rows["one"][3] == "no main row yet"
    assert rows["one"][4] == "2 holds"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_smoke_presets_make_one_page(tmp_path):
    command = [sys.executable, "-m", "batchwright", *all_of(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(rows_of((tmp_path / "report.html").read_text())) == set(registry.REGISTRY)
