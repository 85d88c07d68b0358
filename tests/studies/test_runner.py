"""The frame of all studies: records, resume after a kill, failures, figures, and workers."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from batchwright.core.errors import InputError, RecordError
from batchwright.core.records import read_json, read_records
from batchwright.core.statistics import Interval
from batchwright.core.study_record import Level, Panel, Row, Series, StudyFigure
from batchwright.studies import Cell, Study, Summary, run_study

LOG: list[str] = []


def number(place, *, value: float, num_gradients: float = 2.0):
    LOG.append(f"number {value}")
    (place.folder / f"{value}.txt").write_text(str(value))
    return {"value": value, "num_gradients": num_gradients}


def double(place, *, value: float):
    LOG.append(f"double {value}")
    return {"value": 2 * float((place.folder / f"{value}.txt").read_text())}


def broken(place):
    raise ValueError("this cell always fails")


def cells(preset: str, seed: int):
    found = [
        Cell(name="double", run=double, arguments={"value": 1.5}, after=("number",), weight=9.0),
        Cell(name="number", run=number, arguments={"value": 1.5}),
        Cell(name="infinite", run=number, arguments={"value": math.inf}),
    ]
    if preset == "laptop":
        found += [
            Cell(name="broken", run=broken),
            Cell(name="behind", run=double, arguments={"value": 1.5}, after=("broken",)),
        ]
    return found


def summarise(preset, results):
    values = [float(found["value"]) for found in results.values()]
    row = Row(
        what="sum",
        group="toy",
        claim="4.5",
        published=4.5,
        measured=Interval(value=sum(values[:2]), low=-math.inf, high=math.inf),
        seeds=(0,),
        low=4.0,
        high=5.0,
        verdict="holds",
    )
    series = Series(name="points", x=(1.0, 2.0), y=(values[0], math.inf), low=(0.0, 0.0), high=(9.0, 9.0))
    panel = Panel(title="t", x_name="x", y_name="y", series=(series,), levels=(Level(y=1.0, name="one"),))
    return Summary(rows=(row,), figures=(StudyFigure(name="toy", title="Toy", caption="A toy.", panels=(panel,)),))


TOY = Study(name="toy", title="A toy", source="nowhere", cells=cells, summarise=summarise)


def test_a_study_leaves_records_summary_and_figures(tmp_path: Path):
    LOG.clear()
    told = []
    record = run_study(TOY, preset="smoke", out=tmp_path, num_workers=1, on_cell=lambda *each: told.append(each))
    assert LOG.index("double 1.5") > LOG.index("number 1.5")
    assert [each[1:] for each in told] == [(1, 3), (2, 3), (3, 3)]
    assert record.rows[0].measured.value == 4.5
    assert record.cost.num_gradients == 4.0
    assert record.num_cells == {"finished": 3, "failed": 0, "all": 3}
    assert record.verdicts["holds"] == 1
    records = read_records(tmp_path)
    assert {line["name"] for line in records.of_kind("cell")} == {"double", "number", "infinite"}
    saved = read_json(tmp_path / "study.json")
    assert saved["study"] == "toy"
    assert (tmp_path / "figures" / "toy.csv").read_text().startswith("panel,series,x,y,low,high\nt,points,1.0,3.0")
    assert read_json(tmp_path / "figures" / "toy.json")["panels"][0]["series"][0]["y"] == [3.0, "inf"]


def test_workers_give_what_one_process_gives(tmp_path: Path):
    alone = run_study(TOY, preset="smoke", out=tmp_path / "a", num_workers=1)
    two = run_study(TOY, preset="smoke", out=tmp_path / "b", num_workers=2)
    assert alone.rows == two.rows
    assert alone.figures == two.figures


def test_a_resumed_study_repeats_nothing_and_ends_alike(tmp_path: Path):
    whole = run_study(TOY, preset="smoke", out=tmp_path / "a", num_workers=1)
    run_study(TOY, preset="smoke", out=tmp_path / "b", num_workers=1, only="number")
    path = tmp_path / "b" / "records.jsonl"
    with path.open("a") as file:
        file.write('{"kind": "cell", "schema": 1, "name": "dou')  # torn by a kill
    LOG.clear()
    again = run_study(TOY, preset="smoke", out=tmp_path / "b", num_workers=1, resume=True)
    assert LOG == ["double 1.5", "number inf"]
    assert again.rows == whole.rows
    assert again.figures == whole.figures
    LOG.clear()
    run_study(TOY, preset="smoke", out=tmp_path / "b", num_workers=1, resume=True)
    assert LOG == []


def test_a_study_begun_with_resume_can_be_resumed(tmp_path: Path):
    run_study(TOY, preset="smoke", out=tmp_path, num_workers=1, only="number", resume=True)
    assert len(read_records(tmp_path).of_kind("start")) == 1
    assert run_study(TOY, preset="smoke", out=tmp_path, num_workers=1, resume=True).num_cells["finished"] == 3


def test_options_belong_to_what_a_folder_holds(tmp_path: Path):
    def configure(options, data_root):
        return replace(TOY, title=f"toy of {options['colour']}")

    study = replace(TOY, options={"colour": "red"}, configure=configure)
    assert run_study(study, preset="smoke", out=tmp_path / "red", num_workers=1).title == "toy of red"
    blue = {"preset": "smoke", "out": tmp_path / "blue", "num_workers": 1, "options": {"colour": "blue"}}
    assert run_study(study, **blue).title == "toy of blue"
    assert run_study(study, **blue, resume=True).title == "toy of blue"
    with pytest.raises(RecordError, match=r"--out must hold the study to be resumed, .*red.* got .*blue"):
        run_study(study, preset="smoke", out=tmp_path / "blue", num_workers=1, resume=True)
    with pytest.raises(InputError, match=r"--size must be an option of the study, got '3' for toy, which has --colour"):
        run_study(study, preset="smoke", out=tmp_path / "no", options={"size": "3"})


def test_a_chain_that_names_all_before_it_is_walked_once(tmp_path: Path):
    """Forty cells that each name all earlier ones have 2^38 ways back to the first."""
    names = [f"number-{index}" for index in range(40)]
    chain = [
        Cell(name=name, run=number, arguments={"value": 1.5}, after=tuple(names[:index]))
        for index, name in enumerate(names)
    ]
    study = replace(TOY, cells=lambda preset, seed: chain)
    record = run_study(study, preset="smoke", out=tmp_path, num_workers=1, only="number-39")
    assert record.num_cells["finished"] == 40


def test_a_cell_that_fails_stops_only_what_needs_it(tmp_path: Path):
    for workers in (1, 2):
        record = run_study(TOY, preset="laptop", out=tmp_path / str(workers), num_workers=workers)
        assert sorted(record.failures) == [
            "behind: needs broken, which failed",
            "broken: ValueError: this cell always fails",
        ]
        assert record.num_cells == {"finished": 3, "failed": 2, "all": 5}


def test_what_cannot_be_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="--preset must be one of smoke, laptop, paper for toy, got 'large'"):
        run_study(TOY, preset="large", out=tmp_path)
    with pytest.raises(InputError, match="--only must be part of a cell's name, got 'nothing'"):
        run_study(TOY, preset="smoke", out=tmp_path, only="nothing")
    run_study(TOY, preset="smoke", out=tmp_path, num_workers=1)
    with pytest.raises(InputError, match="add --resume or choose another"):
        run_study(TOY, preset="smoke", out=tmp_path)
    with pytest.raises(RecordError, match="must hold the study to be resumed"):
        run_study(TOY, preset="smoke", out=tmp_path, seed=1, resume=True)


def test_a_killed_study_goes_on_where_it_was(tmp_path: Path):
    """SIGKILL to the parent alone: its workers end too, and the finished cells are kept."""
    command = [sys.executable, "-m", "batchwright", "study", "eoss", "--json", "--only", "boundary"]
    command += ["--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    records = tmp_path / "records.jsonl"
    for _ in range(6000):
        # A line that is not ended is one that a kill loses.
        lines = records.read_text().splitlines(keepends=True) if records.exists() else []
        if any('"kind": "cell"' in line and line.endswith("\n") for line in lines):
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=30)
    kept = [line["name"] for line in read_records(tmp_path).of_kind("cell")]
    assert kept
    done = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["result"]["studies"]["eoss"]["rows"]) == 2
    cells_now = [line["name"] for line in read_records(tmp_path).of_kind("cell")]
    assert sorted(cells_now) == ["boundary/heavy-ball", "boundary/nesterov"]
    assert cells_now[: len(kept)] == kept
