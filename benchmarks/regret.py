"""How good plans are: cost to target at the plan over the best of a whole sweep, with and without calibration.

    python -m benchmarks.sweeps && python -m benchmarks.regret

The sweep (`benchmarks.sweeps`) holds every batch size and lr of its grid; the plan's own setting is run with the same seeds. The
prior of kappa leaves the task's own row out, so no plan knows its answer. Seconds are steps times the step time that the plan
measured, for both sides: the sweep ran at another time and under another load.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from batchwright.core.records import write_json
from batchwright.core.statistics import Interval, student_quantile
from batchwright.planning.kappa import kappa_prior
from batchwright.planning.plan import Plan
from batchwright.planning.planner import plan
from batchwright.tasks.loading import load_task
from batchwright.training.sweep import Setting, Trial, sweep
from batchwright.training.verify import by_setting
from benchmarks.sweeps import TASKS, load_trials, path_of


def step_time_s(found: Plan, batch_size: int) -> float:
    """Seconds of a step from the plan's own curve, interpolated on the logarithm of the batch size."""
    sizes = [point.batch_size for point in found.evidence.curve]
    times = [point.step_time_s for point in found.evidence.curve]
    return float(np.exp(np.interp(math.log(batch_size), np.log(sizes), np.log(times))))


def costs(trials: Sequence[Trial], found: Plan, unit: str) -> np.ndarray:
    """Cost of each trial of one setting; infinite where the target was not reached."""
    values = []
    for trial in trials:
        if not trial.reached or trial.steps is None or trial.examples is None:
            values.append(math.inf)
        else:
            values.append(trial.examples if unit == "examples" else trial.steps * step_time_s(found, trial.batch_size))
    return np.array(values)


def regret(mine: Sequence[Trial], others: Sequence[Trial], found: Plan, unit: str) -> tuple[Interval, Setting]:
    groups = by_setting(others)
    best = min(groups, key=lambda setting: float(costs(groups[setting], found, unit).mean()))
    top, own = costs(groups[best], found, unit), costs(mine, found, unit)
    count = min(len(top), len(own))
    ratio = float(own.mean() / top.mean())
    if not math.isfinite(ratio):
        return Interval(value=math.inf, low=1.0, high=math.inf), best
    logs = np.log(own[:count] / top[:count])
    half = student_quantile(0.95, count - 1) * float(logs.std(ddof=1)) / math.sqrt(count)
    return Interval(value=ratio, low=ratio * math.exp(-half), high=ratio * math.exp(half)), best


def text(interval: Interval) -> str:
    return (
        f"{interval.value:.2f} ({interval.low:.2f}–{interval.high:.2f})"
        if math.isfinite(interval.value)
        else "not reached"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path("runs/sweeps"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        "| task | objective | calibrated | batch size | lr | cost, plain steps | regret, seconds | regret, examples | fastest found |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.tasks:
        if not path_of(options.out, name).exists():
            continue
        task, trials = load_task(name), load_trials(options.out, name)
        prior = kappa_prior(exclude=task.name, optimizer=task.optimizer.name)
        for objective in ("time", "balanced"):
            for calibrate in (False, True):
                found = plan(task, objective, calibrate=calibrate, kappa=prior, device="cpu")
                setting = Setting(batch_size=found.batch_size, lr=found.lr)
                with tempfile.TemporaryDirectory() as scratch:
                    mine = sweep(task, [setting], out=scratch, num_seeds=options.seeds, device="cpu")
                seconds, best = regret(mine, [*trials, *mine], found, "seconds")
                examples, _ = regret(mine, [*trials, *mine], found, "examples")
                rows.append(
                    {
                        "task": name,
                        "objective": objective,
                        "calibrate": calibrate,
                        "plan": found,
                        "seconds": seconds,
                        "examples": examples,
                    }
                )
                print(
                    f"| {name} | {objective} | {'yes' if calibrate else 'no'} | {found.batch_size} | {found.lr:.3g} | "
                    f"{found.cost.plain_steps:.0f} | {text(seconds)} | {text(examples)} | batch {best.batch_size}, lr {best.lr:.3g} |",
                    flush=True,
                )
    write_json(options.out / "regret.json", rows)


if __name__ == "__main__":
    main()
