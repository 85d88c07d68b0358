"""The prior of kappa: critical batch size of each sweep over the noise scale of a pilot, written to ``planning/kappa.json``.

    python -m benchmarks.sweeps && python -m benchmarks.kappa

The critical batch size is that of ``examples(B) = E_min (1 + B / B_crit)``, fitted to the logarithm of the fewest examples at
each batch size (best lr, mean over seeds); its interval is a bootstrap over seeds, with the lr chosen anew in each resample.
"""

import argparse
import datetime
import math
from pathlib import Path

import numpy as np
import torch

from batchwright.core.records import write_json
from batchwright.core.statistics import Interval
from batchwright.measure.pilot import pilot
from batchwright.planning.kappa import KappaMeasurement, KappaTable
from batchwright.planning.planner import MAX_PILOT_STEPS
from batchwright.tasks.loading import load_task
from batchwright.training.sweep import Trial
from batchwright.training.verify import by_setting
from benchmarks.sweeps import TASKS, load_trials, path_of

TABLE = Path(__file__).parents[1] / "src" / "batchwright" / "planning" / "kappa.json"
NUM_PILOTS = 3


def table_of(trials: tuple[Trial, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Batch sizes, and examples to target of shape ``(sizes, lrs, seeds)``; infinite where not reached.

    A size that an unfinished sweep has not tried at every lr is left out: its best lr is not known.
    """
    rows: dict[int, list[list[float]]] = {}
    for setting, group in sorted(by_setting(trials).items(), key=lambda item: (item[0].batch_size, item[0].lr)):
        found = [trial.examples if trial.examples is not None else math.inf for trial in group]
        rows.setdefault(setting.batch_size, []).append(found)
    num_lrs, num_seeds = max(map(len, rows.values())), max(len(row[0]) for row in rows.values())
    whole = {
        size: row for size, row in rows.items() if len(row) == num_lrs and all(len(each) == num_seeds for each in row)
    }
    return np.array(list(whole), dtype=float), np.array(list(whole.values()), dtype=float)


def fit(sizes: np.ndarray, examples: np.ndarray) -> float:
    """Critical batch size of the hyperbola, by least squares of the logarithms over a grid; sizes never reached are left out."""
    best = examples.mean(axis=2).min(axis=1)
    seen = np.isfinite(best)
    logs, grid = np.log(best[seen]), np.geomspace(sizes[0] / 4, sizes[-1] * 16, 1000)
    shape = np.log(1 + sizes[seen][None, :] / grid[:, None])
    residual = logs - shape
    return float(grid[residual.var(axis=1).argmin()])


def critical_batch_size(trials: tuple[Trial, ...], rng: np.random.Generator) -> Interval:
    sizes, examples = table_of(trials)
    seeds = examples.shape[2]
    found = np.sort([fit(sizes, examples[:, :, rng.integers(seeds, size=seeds)]) for _ in range(500)])
    value = fit(sizes, examples)
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/sweeps"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in TASKS:
        if not path_of(options.out, name).exists():
            print(f"{name}: no sweep, left out")
            continue
        task = load_task(name)
        critical = critical_batch_size(load_trials(options.out, name), np.random.default_rng(0))
        noises = [
            pilot(task, num_steps=MAX_PILOT_STEPS, batches_a_point=25, seed=seed).noise_scale
            for seed in range(NUM_PILOTS)
        ]
        logs = [math.log(noise.value) for noise in noises if math.isfinite(noise.value)]
        noise = math.exp(sum(logs) / len(logs))
        spread = max(math.log(each.high / each.low) / 2 if math.isfinite(each.high) else math.log(4) for each in noises)
        half_low = math.hypot(math.log(critical.value / critical.low), spread)
        half_high = math.hypot(math.log(critical.high / critical.value), spread)
        kappa = critical.value / noise
        rows.append(
            KappaMeasurement(
                task=task.name,
                optimizer=task.optimizer.name,
                kappa=Interval(value=kappa, low=kappa * math.exp(-half_low), high=kappa * math.exp(half_high)),
                critical_batch_size=critical.value,
                noise_scale=noise,
            )
        )
        print(
            f"{name}: critical {critical.value:.0f} ({critical.low:.0f} to {critical.high:.0f}), noise {noise:.0f}, kappa {kappa:.2f}"
        )
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    write_json(TABLE, KappaTable(command="make kappa", date=date, measurements=tuple(rows)))


if __name__ == "__main__":
    main()
