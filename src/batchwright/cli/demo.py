"""``batchwright demo``: the whole flow on bundled digits, offline, within two minutes on two cores."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from batchwright.cli.options import Device, Json, Out, Seed
from batchwright.cli.output import console, interval_text, number, print_json, progress_bar

TASK = "digits-mlp"
# Lower than the task's own target, so that the runs are long enough to differ.
TARGET = 0.10
NUM_SEEDS = 3
LABELS = {"default": "default (batch 32)", "plan": "plan", "adaptive": "adaptive (noise scale)"}


def demo(out: Out = None, seed: Seed = 0, device: Device = "auto", json: Json = False) -> None:
    """Plan digits, train at the plan, at a common default and with a controller, and write the report page.

    Example: batchwright demo --out runs/demo
    """
    from batchwright.core.records import make_folder
    from batchwright.planning.planner import plan as make_plan
    from batchwright.report import write_report
    from batchwright.tasks.loading import load_task
    from batchwright.tasks.task import Target

    start = time.perf_counter()
    folder = make_folder(out or Path("runs/demo"))
    _make_room(folder)
    task = replace(load_task(TASK), target=Target(value=TARGET))
    with progress_bar() as bar:
        line = bar.add_task("demo", total=1 + 3 * NUM_SEEDS, note="")
        # The fastest size is what someone at a machine wants to see first; `plan` itself defaults to "balanced".
        found = make_plan(
            task, "time", seed=seed, device=device, on_progress=lambda words: bar.update(line, note=words)
        )
        found.save(folder)
        bar.advance(line)
        runs = _train_all(task, found, folder, seed, device, lambda words: bar.update(line, advance=1, note=words))
    page = write_report(folder)
    seconds = time.perf_counter() - start
    rows = [_row(label, runs[label]) for label in LABELS]
    if json:
        print_json(
            "demo", {"plan": found, "runs": rows, "page": str(page)}, {"seconds": seconds, "plan": found.cost}, device
        )
        return
    _print(found, rows, seconds, page)


def _make_room(folder: Path) -> None:
    """Remove the runs of an earlier demo, and nothing else."""
    for name in ("runs",):
        if (folder / name).is_dir() and (folder / "plan.json").is_file():
            shutil.rmtree(folder / name)


def _train_all(
    task: Any, found: Any, folder: Path, seed: int, device: str, advance: Callable[[str], None]
) -> dict[str, list[Any]]:
    from batchwright.adapt import NoiseScale
    from batchwright.training.loop import train

    options: Mapping[str, dict[str, Any]] = {
        "default": {},
        "plan": {"plan": found},
        "adaptive": {"policy": NoiseScale(max_batch_size=512, fraction=1.0), "noise_every": 2},
    }
    runs: dict[str, list[Any]] = {label: [] for label in LABELS}
    # Seed by seed, so that a change in the load of the machine meets all three alike.
    for run_seed in range(seed, seed + NUM_SEEDS):
        for label, chosen in options.items():
            place = folder / "runs" / f"{label}-seed-{run_seed}"
            run = train(
                task, out=place, label=LABELS[label], seed=run_seed, device=device, checkpoint_every=1000, **chosen
            )
            if run.reason == "interrupted":
                raise KeyboardInterrupt
            runs[label].append(run)
            advance(f"{label}, seed {run_seed}")
    return runs


def _row(label: str, runs: list[Any]) -> dict[str, Any]:
    from batchwright.core.statistics import mean_interval

    reached = [run.to_target for run in runs if run.to_target is not None]
    row: dict[str, Any] = {
        "label": LABELS[label],
        "batch_size": runs[-1].batch_size,
        "reached": f"{len(reached)} of {len(runs)}",
        "accuracy": mean_interval([run.values["accuracy"] for run in runs]),
    }
    for unit in ("steps", "examples", "seconds"):
        found = mean_interval([getattr(each, unit) for each in reached]) if reached else None
        # Nothing here can be negative, whatever a symmetric interval of three runs says.
        row[unit] = found and replace(found, low=max(found.low, 0.0) if len(reached) > 1 else found.low)
    return row


def _print(plan: Any, rows: list[dict[str, Any]], seconds: float, page: Path) -> None:
    screen = console()
    interval = plan.intervals["batch_size"]
    screen.print(
        f"Plan for {plan.task}: batch size {plan.batch_size} ({number(interval.low)} to {number(interval.high)}), "
        f"lr {interval_text(plan.intervals['lr'])}, momentum {plan.momentum:g}; measured in {plan.cost.plain_steps:.0f} plain steps."
    )
    table = Table(
        title=f"To the same target, {NUM_SEEDS} seeds: mean and 95 % interval", title_justify="left", expand=False
    )
    for heading in ("run", "last batch", "reached", "steps", "examples", "seconds", "accuracy at the end"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = [
            "not reached" if row[unit] is None else interval_text(row[unit])
            for unit in ("steps", "examples", "seconds")
        ]
        table.add_row(row["label"], str(row["batch_size"]), row["reached"], *cells, interval_text(row["accuracy"]))
    screen.print(table)
    screen.print(f"The whole demo took {seconds:.0f} s. Open the page: {page}")
