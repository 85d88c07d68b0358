"""``batchwright study``: reproduce a paper."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from batchwright.cli.options import DataRoot, Device, Json, Out, Seed
from batchwright.cli.output import console, errors, interval_text, number, print_json, progress_bar


def study(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A study; see --all.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every study, one after another.")] = False,
    preset: Annotated[
        str, typer.Option("--preset", help="smoke (under a minute), laptop (minutes) or paper (a GPU).")
    ] = "smoke",
    only: Annotated[str, typer.Option("--only", help="Only the cells whose name holds this text.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in --out.")] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes, one thread each.", show_default="2 at most")
    ] = None,
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
    from batchwright.core.errors import BatchwrightError, InputError
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
    chosen = list(REGISTRY.values()) if name is None else [REGISTRY[name]]
    folder = out or Path("runs") / "studies"
    records: dict[str, Any] = {}
    lost: dict[str, BatchwrightError] = {}
    for each in chosen:
        place = folder / each.name if name is None or out is None else folder
        try:
            with progress_bar() as bar:
                line = bar.add_task(each.name, total=None, note="")
                records[each.name] = run_study(
                    each,
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
        except BatchwrightError as error:
            if name is not None:
                raise
            lost[each.name] = error  # the other studies go on
            errors().print(f"batchwright: {each.name}: {error}", markup=False)
        else:
            if not json:
                _print(records[each.name], place)
    if json:
        found = {
            key: {"rows": value.rows, "notes": value.notes, "failures": value.failures}
            for key, value in records.items()
        }
        print_json(
            "study", found, {key: value.cost for key, value in records.items()}, device if device != "auto" else "cpu"
        )
    if lost or any(record.failures for record in records.values()):
        raise typer.Exit(1)


def _advance(bar: Any, line: Any, cell: str, done: int, total: int) -> None:
    bar.update(line, completed=done, total=total, note=cell)


def _names() -> str:
    from batchwright.studies.registry import REGISTRY

    return ", ".join(REGISTRY)


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
