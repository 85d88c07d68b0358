"""``batchwright report``: one self-contained page from records."""

from pathlib import Path
from typing import Annotated

import typer

from batchwright.cli.options import Device, Json, Out, Seed
from batchwright.cli.output import console, print_json


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with plans and runs, at any depth.")],
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write one interactive page that opens from disk without a network.

    Example: batchwright report runs/demo
    """
    from batchwright.core.records import make_folder
    from batchwright.report import write_report

    path = write_report(folder, make_folder(out) / "report.html" if out is not None else None)
    if json:
        print_json("report", {"page": str(path)}, {}, device)
    else:
        console().print(f"Written: {path}")
