"""``batchwright study``: reproduce a paper, or all of them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from batchwright.cli.options import DataRoot, Device, Json, Out, Resume, Seed, Workers
from batchwright.cli.output import console, errors, interval_text, number, print_json, progress_bar


def study(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A study; see --all.", show_default=False)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every study, one after another, and one page of them all.")
    ] = False,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="smoke (under a minute), laptop (minutes), paper (a GPU); some have middle or race."
        ),
    ] = "smoke",
    only: Annotated[str, typer.Option("--only", help="Only the cells whose name holds this text.")] = "",
    resume: Resume = False,
    workers: Workers = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            "--optimizer", help="Of critical-batch: names with commas; the first is the reference.", show_default=False
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Of critical-batch: a built-in name or file.py:make_task.", show_default=False),
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Reproduce a paper and say which of its numbers hold.

    Example: batchwright study eoss --preset laptop --out runs/eoss
    """
    from batchwright.core.errors import InputError
    from batchwright.data.readers import find_data_root
    from batchwright.studies import run_study
    from batchwright.studies.registry import REGISTRY

    if every == (name is not None):
        raise InputError(f"study must be given one NAME or --all, got {name!r} and --all={every}; names: {_names()}")
    if name is not None and name not in REGISTRY:
        raise InputError(f"NAME must be one of {_names()}, got {name!r}")
    told = {key: value for key, value in (("optimizer", optimizer), ("task", task)) if value is not None}
    if told and every:
        raise InputError(f"--{next(iter(told))} must go with one study, got --all; name the study")

    def run_one(chosen: Any, place: Path) -> Any:
        with progress_bar() as bar:
            line = bar.add_task(chosen.name, total=None, note="")
            record = run_study(
                chosen,
                preset=preset,
                out=place,
                seed=seed,
                device=device,
                data_root=find_data_root(data_root),
                resume=resume,
                num_workers=workers,
                only=only,
                options=told,
                on_cell=partial(_advance, bar, line),
            )
        if not json:
            _print(record, place)
        return record

    folder = out or Path("runs") / "studies"
    page: Path | None = None
    lost: dict[str, str] = {}
    if name is None:
        records, lost, page = _run_all(list(REGISTRY.values()), folder, run_one, preset=preset, seed=seed)
        places = {each: folder / each for each in REGISTRY}
    else:
        places = {name: folder / name if out is None else folder}
        records = {name: run_one(REGISTRY[name], places[name])}
    if json:
        _print_json(records, lost, places, page, preset, device)
    elif page is not None:
        console().print(f"One page of all: {page}")
    if lost or any(record.failures for record in records.values()):
        raise typer.Exit(1)


def _run_all(
    chosen: list[Any], folder: Path, run_one: Any, *, preset: str, seed: int
) -> tuple[dict[str, Any], dict[str, str], Path | None]:
    """Every study in a folder of its own, the set's record, and the page, which is there after each of them."""
    from batchwright.core.errors import RecordError
    from batchwright.core.records import make_folder, write_json
    from batchwright.core.study_set import SET_NAME, StudyEntry, StudySet
    from batchwright.report import write_report

    records: dict[str, Any] = {}
    lost: dict[str, str] = {}
    page: Path | None = None
    make_folder(folder)
    for each in chosen:
        try:
            records[each.name] = run_one(each, folder / each.name)
        except Exception as error:  # whatever it was, the other studies go on and the page tells it
            lost[each.name] = " ".join(str(error).split()) or type(error).__name__
            errors().print(f"batchwright: {each.name}: {lost[each.name]}", markup=False)
        entries = [
            StudyEntry(study=one.name, title=one.title, folder=one.name, error=lost.get(one.name, ""))
            for one in chosen
            if one.name in records or one.name in lost
        ]
        write_json(folder / SET_NAME, StudySet(preset=preset, seed=seed, entries=tuple(entries)))
        try:
            page = write_report(folder)
        except RecordError as error:
            errors().print(f"batchwright: {error}", markup=False)
    return records, lost, page


def _advance(bar: Any, line: Any, cell: str, done: int, total: int) -> None:
    bar.update(line, completed=done, total=total, note=cell)


def _names() -> str:
    from batchwright.studies.registry import REGISTRY

    return ", ".join(REGISTRY)


def _print_json(
    records: Mapping[str, Any],
    lost: Mapping[str, str],
    places: Mapping[str, Path],
    page: Path | None,
    preset: str,
    device: str,
) -> None:
    found = {
        name: {
            "preset": preset,
            "rows": records[name].rows if name in records else [],
            "notes": records[name].notes if name in records else [],
            "failures": records[name].failures if name in records else [],
            "folder": str(places[name]),
            "error": lost.get(name),
        }
        for name in (*records, *lost)
    }
    cost = {
        "seconds": sum(record.cost.seconds for record in records.values()),
        "studies": {name: record.cost for name, record in records.items()},
    }
    print_json("study", {"studies": found, "page": page and str(page)}, cost, device)


def _print(record: Any, place: Path) -> None:
    screen = console()
    table = Table(title=f"{record.title} (preset {record.preset})", title_justify="left", expand=False)
    for heading in ("what", "published", "measured", "passes", "verdict"):
        table.add_column(heading, overflow="fold")
    for row in record.rows:
        passes = f"{number(row.low)} to {number(row.high)}"
        published = "" if row.published is None else number(row.published)
        measured = "" if row.measured is None else interval_text(row.measured)
        table.add_row(row.what, published, measured, passes, row.verdict)
    screen.print(table)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in record.verdicts.items() if count)
    cells = record.num_cells
    screen.print(f"{counts}; {cells['finished']} of {cells['all']} cells, {record.cost.seconds:.0f} s.")
    for line in record.failures:
        screen.print(f"Failed: {line}")
    screen.print(f"Written: {place}")
