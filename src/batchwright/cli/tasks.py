"""``batchwright tasks``: what is built in."""

from rich.table import Table

from batchwright.cli.options import DataRoot, Device, Json, Out, Seed
from batchwright.cli.output import console, print_json


def tasks(
    out: Out = None, seed: Seed = 0, device: Device = "auto", data_root: DataRoot = None, json: Json = False
) -> None:
    """List the built-in tasks.

    Example: batchwright tasks
    """
    from batchwright.tasks.registry import REGISTRY

    rows = [
        {"name": name, "description": entry.description, "needs_data": entry.needs_data}
        for name, entry in REGISTRY.items()
    ]
    if json:
        print_json("tasks", {"tasks": rows}, {}, device)
        return
    table = Table("task", "what it is", "data")
    for row in rows:
        table.add_row(str(row["name"]), str(row["description"]), "--data-root" if row["needs_data"] else "built in")
    console().print(table)
