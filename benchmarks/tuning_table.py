"""Tabulates `digits-cnn` once, so that many tuners can be compared on real training at the price of one grid.

    python -m benchmarks.tuning_table [--workers N]

The evaluation loss after two epochs on a grid of learning rate, batch size, momentum and weight decay, written to
`benchmarks/digits_cnn_table.json` (it goes on where it was stopped); every fourth cell with a second seed. Between the cells the
logarithm of the loss is interpolated linearly in the logarithms of lr, batch size, 1 - momentum and weight decay. A loss above that
of the untrained model, or none, counts as that one. The noise of a trial is the scatter between two seeds, pooled over the cells that
train.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from batchwright.tuning import LaneExecutor, local_executor, task_objective
from batchwright.tuning.job import Job, run_job

PATH = Path(__file__).with_name("digits_cnn_table.json")
SPACE = "lr=log:1e-3:1,batch_size=log2:16:512,momentum=0.5:0.99,weight_decay=log:1e-5:1e-1"
GRID = {
    "lr": [float(f"{10 ** (-3 + 3 * i / 7):.4g}") for i in range(8)],
    "batch_size": [16, 64, 256, 512],
    "momentum": [0.5, 0.8, 0.95, 0.99],
    "weight_decay": [1e-5, 1e-2, 1e-1],
}
MAX_EXAMPLES, AGAIN = 2874, 4


def cells() -> list[tuple[float, ...]]:
    return list(itertools.product(*GRID.values()))


def make(executor: LaneExecutor) -> None:
    known = json.loads(PATH.read_text())["losses"] if PATH.exists() else {}
    objective = task_objective("digits-cnn", max_examples=MAX_EXAMPLES, early_stop=False, device="cpu")
    every = [(1, cell) for cell in cells()] + [(2, cell) for cell in cells()[::AGAIN]]
    wanted = [(seed, cell) for seed, cell in every if f"{seed} {cell}" not in known]
    for begin in range(0, len(wanted), 20):
        part = wanted[begin : begin + 20]
        jobs = [
            Job(id=0, objective=objective, values=dict(zip(GRID, cell, strict=True)), seed=seed) for seed, cell in part
        ]
        for (seed, cell), outcome in zip(part, executor.map(run_job, jobs), strict=True):
            known[f"{seed} {cell}"] = float(f"{outcome.value:.5g}")
        PATH.write_text(json.dumps({"max_examples": MAX_EXAMPLES, "losses": known}, indent=0) + "\n")
        print(f"{len(known)} of {len(every)}", flush=True)


class Surrogate:
    """The table as a function of a setting, in logarithms of the loss.

    Attributes:
        noise: Standard deviation between seeds.
    """

    def __init__(self) -> None:
        losses = json.loads(PATH.read_text())["losses"]
        logs = np.log([losses[f"1 {cell}"] for cell in cells()])
        second = np.log([losses[f"2 {cell}"] for cell in cells()[::AGAIN]])
        pairs = np.stack([logs[::AGAIN], second])
        trains = pairs.max(0) < math.log(2.0)
        self.noise = float(np.sqrt(np.square(pairs[0] - pairs[1])[trains].mean() / 2))
        logs[::AGAIN] = pairs.mean(0)
        logs = logs.reshape([len(axis) for axis in GRID.values()])
        axes = [
            np.log(GRID["lr"]),
            np.log2(GRID["batch_size"]),
            -np.log1p(-np.array(GRID["momentum"])),
            np.log(GRID["weight_decay"]),
        ]
        self._inside = RegularGridInterpolator(axes, logs)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Logarithm of the expected loss at settings ``(N, 4)``, in the order of the space."""
        lr, batch_size, momentum, weight_decay = points.T
        at = [np.log(lr), np.log2(batch_size), -np.log1p(-momentum), np.log(weight_decay)]
        ends = [np.clip(each, axis[0], axis[-1]) for each, axis in zip(at, self._inside.grid, strict=True)]
        return np.asarray(self._inside(np.stack(ends, 1)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    with local_executor(parser.parse_args().workers) as executor:
        make(executor)
    surrogate = Surrogate()
    print(f"noise between seeds: {surrogate.noise:.3f} in the logarithm")


if __name__ == "__main__":
    main()
