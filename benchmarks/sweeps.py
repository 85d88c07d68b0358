"""Sweeps of the built-in tasks over batch size and learning rate, to their targets: the ground truth of kappa and of regrets.

    python -m benchmarks.sweeps TASK [TASK ...] [--seeds 3] [--out runs/sweeps]

Each sweep is kept as ``sweep-TASK.json``; `benchmarks.kappa` and `benchmarks.regret` read these. One torch thread: run one
process a core.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from batchwright.core.records import make_folder, read_json, read_records, write_json
from batchwright.core.serialization import from_plain
from batchwright.tasks.loading import load_task
from batchwright.tasks.task import Task
from batchwright.training.sweep import Setting, Trial, sweep

# Chosen before any result was seen: from a quarter of the default to where the data set or the time ends.
TASKS = {
    "digits-mlp": (8, 16, 32, 64, 128, 256, 512),
    "digits-cnn": (8, 16, 32, 64, 128, 256, 512),
    "noisy-quadratic": (8, 16, 32, 64, 128, 256, 512, 1024),
    "uci-mlp:power-plant": (8, 16, 32, 64, 128, 256, 512, 1024),
    "fashion-cnn": (16, 32, 64, 128, 256, 512),
    "char-gpt": (8, 16, 32, 64, 128),
}
LR_FACTORS = (0.5, 1.0, 2.0, 4.0)
# The dear ones: half the default lr was already seen to be slower than the default.
DEAR = {"fashion-cnn": (1.0, 2.0, 4.0), "char-gpt": (0.5, 1.0, 2.0)}


def settings_of(task: Task, sizes: tuple[int, ...], factors: tuple[float, ...]) -> list[Setting]:
    """At each size the task's lr times its square-root factor times each of ``factors``, so both rules are inside."""
    base = task.batch_size
    found = [
        Setting(batch_size=size, lr=task.optimizer.lr * (size / base) ** 0.5 * factor)
        for size in sizes
        if size <= task.num_train
        for factor in factors
    ]
    return sorted(found, key=lambda each: (abs(each.batch_size / base - 1), abs(each.lr / task.optimizer.lr - 1)))


def path_of(folder: Path, name: str) -> Path:
    return folder / f"sweep-{name.replace(':', '-')}.json"


def gather(runs: Path) -> list[Trial]:
    """The trials of an unfinished sweep, from the records of its runs; the one under way is left out."""
    trials = []
    for folder in sorted(runs.iterdir()):
        records = read_records(folder)
        ends = records.of_kind("end")
        if not ends or ends[-1]["reason"] == "interrupted":
            continue
        start, found = records.of_kind("start")[0], ends[-1]["to_target"] or {}
        trials.append(
            Trial(
                batch_size=start["batch_size"],
                lr=start["optimizer"]["lr"],
                seed=start["seed"],
                reached=bool(found),
                steps=found.get("steps"),
                examples=found.get("examples"),
                seconds=found.get("seconds"),
            )
        )
    return trials


def load_trials(folder: Path, name: str) -> tuple[Trial, ...]:
    return from_plain(tuple[Trial, ...], read_json(path_of(folder, name))["trials"], name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/sweeps"))
    parser.add_argument(
        "--gather", type=Path, help="write the sweep of TASK from the runs in this folder, without running more"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(options.out)
    for name in options.tasks:
        if options.gather:
            write_json(path_of(options.out, name), {"task": name, "trials": gather(options.gather), "seconds": None})
            continue
        start = time.perf_counter()
        task = load_task(name)
        runs = options.out / f"runs-{name.replace(':', '-')}-{time.time():.0f}"

        def on_trial(number: int, total: int, trial: Trial, start: float = start) -> None:
            note = f"{trial.examples:.0f} examples" if trial.reached else "not reached"
            seconds = time.perf_counter() - start
            print(
                f"{number}/{total} batch {trial.batch_size} lr {trial.lr:.4g}: {note}, {seconds:.0f} s", file=sys.stderr
            )

        trials = sweep(
            task,
            settings_of(task, TASKS[name], DEAR.get(name, LR_FACTORS)),
            out=runs,
            num_seeds=options.seeds,
            device="cpu",
            on_trial=on_trial,
        )
        write_json(path_of(options.out, name), {"task": name, "trials": trials, "seconds": time.perf_counter() - start})


if __name__ == "__main__":
    main()
