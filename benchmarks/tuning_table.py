"""Tabulates `digits-cnn` once, so that many tuners can be compared on real training at the price of one grid.

    python -m benchmarks.tuning_table [--workers N]

The evaluation loss after two epochs on a grid of learning rate, batch size, momentum and weight decay, written to
`benchmarks/digits_cnn_table.json` (it goes on where it was stopped); every
fourth cell with a second seed. A loss above that of the untrained model, or none, counts as that one. A Gaussian process through the
logarithms of the losses is the function that is searched, with the noise between seeds.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

import torch

from batchwright.bandits import dense_posterior, fit_kernel
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
    """A smooth function through the table, in logarithms of the loss.

    A table of single runs holds their luck, and the best of 480 lucky cells is a false optimum; so a Gaussian process is fitted to all
    runs, and its posterior mean is what a setting is worth.

    Attributes:
        noise: Standard deviation of a run, from the pairs of seeds, by the median of their gaps.
        fitted_noise: The same by the fit.
        scatter: Standard deviation of the runs about the surrogate.
    """

    def __init__(self) -> None:
        losses = json.loads(PATH.read_text())["losses"]
        runs = [(1, cell) for cell in cells()] + [(2, cell) for cell in cells()[::AGAIN]]
        points = torch.tensor([cell for _, cell in runs], dtype=torch.float64)
        values = torch.tensor([losses[f"{seed} {cell}"] for seed, cell in runs], dtype=torch.float64).log()
        first, second = values[: len(cells()) : AGAIN], values[len(cells()) :]
        gaps = (first - second)[torch.maximum(first, second) < math.log(2.0)]
        self.noise = float(1.4826 * gaps.abs().median() / math.sqrt(2))
        fit = fit_kernel(self._place(points), values, name="matern", seed=0)
        self.fitted_noise = math.sqrt(fit.noise_variance)
        self._posterior = dense_posterior(
            self._place(points), values, fit.kernel, fit.noise_variance, prior_mean=fit.mean
        )
        self.scatter = float((self._posterior.mean_at(self._place(points)) - values).std())

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Logarithm of the expected loss at settings ``(N, 4)``, in the order of the space."""
        blocks = self._place(points).split(4096)
        return torch.cat([self._posterior.mean_at(block) for block in blocks])

    @staticmethod
    def _place(points: torch.Tensor) -> torch.Tensor:
        lr, batch_size, momentum, weight_decay = points.T
        at = [lr.log(), batch_size.log2(), -torch.log1p(-momentum), weight_decay.log()]
        axes = [[math.log(1e-3), 0.0], [4.0, 9.0], [math.log(2), math.log(100)], [math.log(1e-5), math.log(1e-1)]]
        return torch.stack([(each - low) / (high - low) for each, (low, high) in zip(at, axes, strict=True)], 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    with local_executor(parser.parse_args().workers) as executor:
        make(executor)
    surrogate = Surrogate()
    print(
        f"in the logarithm: noise between seeds {surrogate.noise:.3f}, fitted {surrogate.fitted_noise:.3f}; "
        f"scatter about the surrogate {surrogate.scatter:.3f}"
    )


if __name__ == "__main__":
    main()
