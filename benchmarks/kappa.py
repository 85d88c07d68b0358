"""The prior of kappa, from sweeps and from branches, written to ``planning/kappa.json``.

    python -m benchmarks.sweeps && python -m benchmarks.branch_table && python -m benchmarks.kappa

A sweep's kappa is its critical batch size over the noise scale of a pilot as long as a plan's. The critical batch size is that of
``examples(B) = E_min (1 + B / B_crit)``, fitted to the logarithm of the fewest examples at each batch size (best lr, mean over
seeds); its interval is a bootstrap over seeds, with the lr chosen anew in each resample. A branch's kappa is that of
`benchmarks.branch_table`. A sweep that is not there keeps its row of the present table; only its noise scale is measured anew, where
the window of a plan's pilot has moved.
"""

import argparse
import datetime
import math
from pathlib import Path

import numpy as np
import torch

from batchwright.core.records import write_json
from batchwright.core.statistics import Interval
from batchwright.measure.pilot import POINTS, pilot
from batchwright.planning.budget import Budget
from batchwright.planning.kappa import (
    KappaMeasurement,
    KappaTable,
    agreement_of_methods,
    by_task,
    family_difference,
    kappa_prior,
    kappa_table,
)
from batchwright.planning.log_normal import inverse, product
from batchwright.planning.measured_plan import PILOT
from batchwright.planning.pilot_window import pilot_steps
from batchwright.planning.random_effects import random_effects
from batchwright.tasks.loading import load_task
from batchwright.tasks.task import Task
from batchwright.training.sweep_fit import critical_batch_size
from benchmarks.branch_table import Row, load_rows
from benchmarks.sweeps import TASKS, load_trials, path_of

TABLE = Path(__file__).parents[1] / "src" / "batchwright" / "planning" / "kappa.json"
NUM_PILOTS = 3


def noise_of(task: Task) -> Interval:
    """Noise scale of a plan's pilot: geometric mean of three, with the widest interval."""
    steps = pilot_steps(task, PILOT * Budget().plain_steps)
    noises = [
        pilot(task, num_steps=steps, batches_a_point=25, max_extra_batches=50, measured_batch_size=64, seed=seed)
        for seed in range(NUM_PILOTS)
    ]
    found = [each.noise_scale for each in noises if math.isfinite(each.noise_scale.value)]
    value = math.exp(sum(math.log(each.value) for each in found) / len(found))
    spread = max(math.log(each.high / each.low) / 2 if math.isfinite(each.high) else math.log(4) for each in found)
    return Interval(value=value, low=value * math.exp(-spread), high=value * math.exp(spread))


def sweep_row(name: str, folder: Path) -> KappaMeasurement | None:
    task = load_task(name)
    steps = pilot_steps(task, PILOT * Budget().plain_steps)
    if path_of(folder, name).exists():
        critical = critical_batch_size(load_trials(folder, name), np.random.default_rng(0))
        noise = noise_of(task)
    else:
        old = [row for row in kappa_table().measurements if (row.task, row.method) == (task.name, "sweep")]
        if not old:
            return None
        if old[0].window[1] == steps:
            return old[0]
        # The sweep of an earlier day: its critical size with the error that kappa has, beside the noise of today.
        critical, noise = old[0].kappa.scaled(old[0].noise_scale), noise_of(task)
    kappa = product(critical, inverse(noise))
    print(f"{name}: critical {critical.value:.0f} ({critical.low:.0f} to {critical.high:.0f}), noise {noise.value:.0f}")
    return KappaMeasurement(
        task=task.name,
        optimizer=task.optimizer.name,
        method="sweep",
        window=(round(POINTS[0] * steps), steps),
        kappa=kappa,
        critical_batch_size=critical.value,
        noise_scale=noise.value,
    )


def branch_row(row: Row) -> KappaMeasurement | None:
    if row.kappa is None or row.critical_batch_size is None:
        return None
    return KappaMeasurement(
        task=row.task,
        optimizer=row.optimizer,
        method="branch",
        window=(row.checkpoint, row.checkpoint),
        kappa=row.kappa,
        critical_batch_size=row.critical_batch_size.value,
        noise_scale=row.noise_scale.value,
    )


def describe(rows: list[KappaMeasurement]) -> str:
    """What the rows say together."""
    lines = []
    for word, found in (
        ("branches over sweeps", agreement_of_methods(rows)),
        ("Adam over SGD", family_difference([row for row in rows if row.resolved])),
    ):
        if found is not None:
            low, high = found.mean_interval(0.95)
            lines.append(
                f"{word}: factor {math.exp(found.mean):.2f} ({math.exp(low):.2f} to {math.exp(high):.2f}), "
                f"scatter of the log {found.scatter:.2f}, {found.count} tasks"
            )
    for word, chosen in (("sweeps alone", [row for row in rows if row.method == "sweep"]), ("all rows", rows)):
        tasks = by_task([row for row in chosen if row.resolved])
        logs = list(tasks.values())
        found = random_effects([each.mean for each in logs], [each.variance for each in logs])
        prior = kappa_prior(KappaTable(command="", date="", measurements=tuple(chosen)))
        lines.append(
            f"{word}: {found.count} tasks, scatter of the log {found.scatter:.2f}, prior {prior.value:.2f} "
            f"({prior.low:.2f} to {prior.high:.2f})"
        )
    for row in rows:
        if row.method == "sweep":
            left = kappa_prior(
                KappaTable(command="", date="", measurements=tuple(rows)), exclude=row.task, optimizer=row.optimizer
            )
            alone = kappa_prior(
                KappaTable(command="", date="", measurements=tuple(each for each in rows if each.method == "sweep")),
                exclude=row.task,
            )
            lines.append(
                f"{row.task}: kappa {row.kappa.value:.2f} ({row.kappa.low:.2f} to {row.kappa.high:.2f}); from the others "
                f"{left.value:.2f} ({left.low:.2f} to {left.high:.2f}), from their sweeps alone {alone.value:.2f} "
                f"({alone.low:.2f} to {alone.high:.2f})"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/sweeps"))
    parser.add_argument("--branches", type=Path, default=Path("runs/branch-table"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [sweep_row(name, options.out) for name in TASKS] + [branch_row(row) for row in load_rows(options.branches)]
    rows = [row for row in found if row is not None]
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    write_json(TABLE, KappaTable(command="make kappa", date=date, measurements=tuple(rows)))
    print(describe(rows))


if __name__ == "__main__":
    main()
