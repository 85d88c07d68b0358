"""Options that mean the same in every command."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path | None, typer.Option("--out", help="Folder for what the command writes.", show_default=False)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of every random number.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output and nothing else.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="BATCHWRIGHT_DATA",
        help="Folder of real data sets, for tasks that need it.",
        show_default=False,
    ),
]
TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="A built-in name, file.py:make_task or package.module:make_task.")
]
