"""Options of more than one command: the same name means the same everywhere, and a test holds this."""

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
MaxBatchSize = Annotated[
    int | None, typer.Option("--max-batch-size", min=1, help="No batch is larger.", show_default=False)
]
MaxGradNorm = Annotated[
    float | None,
    typer.Option("--max-grad-norm", help="Clip gradients to this norm; a plan may say it.", show_default=False),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what --out holds, as it was started.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that share the work.", show_default=False),
]
TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="A built-in name, file.py:make_task or package.module:make_task.")
]
MaxExamples = Annotated[
    int | None, typer.Option("--max-examples", min=1, help="Budget of a run.", show_default="the task's limit")
]
Objective = Annotated[str, typer.Option("--objective", help="Of a plan: time, examples or balanced.")]
TrainerOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="Any other option of the trainer, name=value (docs/rl.md, docs/gan.md); may be repeated."
    ),
]
