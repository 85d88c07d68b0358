"""``batchwright report``: one self-contained page from records, on disk or served while a run goes on."""

from pathlib import Path
from typing import Annotated

import typer

from batchwright.cli.options import Device, Json, Out, Seed
from batchwright.cli.output import console, print_json, progress_bar


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with plans and runs, at any depth.")],
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Serve the page to this machine's browser and keep it up to date; Ctrl-C ends."),
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Of --watch.", show_default="one that is free")
    ] = 0,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write one interactive page that opens from disk without a network; with --watch serve it while a run goes on.

    Example: batchwright report runs/demo
    """
    from batchwright.core.errors import InputError
    from batchwright.core.records import make_folder
    from batchwright.report import write_report

    if watch:
        for option, given in (("--json", json), ("--out", out is not None)):
            if given:
                raise InputError(
                    f"{option} must be left out with --watch, got both; the page is served and not written"
                )
        _watch(folder, port)
        return
    if port:
        raise InputError(f"--port must go with --watch, got {port} alone; leave it out")
    with progress_bar() as bar:
        bar.add_task("reading", total=None, note=str(folder))
        path = write_report(folder, make_folder(out) / "report.html" if out is not None else None)
    if json:
        print_json("report", {"page": str(path)}, {}, device)
    else:
        console().print(f"Written: {path}")


def _watch(folder: Path, port: int) -> None:
    from batchwright.core.errors import InputError
    from batchwright.report import Watch

    if folder.exists() and not folder.is_dir():
        raise InputError(f"DIR must be a folder, got the file {folder}; give the --out of a command")
    served = Watch(folder, port)
    console().print(f"Watching {folder}: open {served.url} (Ctrl-C ends)")
    try:
        served.serve()
    except KeyboardInterrupt:
        console().print("Ended.")
    finally:
        served.close()
