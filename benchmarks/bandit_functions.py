"""The bandits on Branin and Hartmann-6 with noise, kernel fitted: simple regret, and whether the certificate holds or warns.

    python -m benchmarks.bandit_functions [--seeds N]

Four rounds of 16 trials; noise of standard deviation 1 (Branin) and 0.1 (Hartmann-6). Other tuners are not compared here.
"""

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from batchwright.bandits import BPE, GPBUCB, UCBPE, Bandit, Confidence, Space, Thompson
from benchmarks.ratios import clock

SCALES = [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
CENTRES = [
    [1312, 1696, 5569, 124, 8283, 5886],
    [2329, 4135, 8307, 3736, 1004, 9991],
    [2348, 1451, 3522, 2883, 3047, 6650],
    [4047, 8828, 8732, 5743, 1091, 381],
]


def branin(x: Tensor) -> Tensor:
    a, b = x[:, 0], x[:, 1]
    inner = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return inner**2 + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(a) + 10


def hartmann(x: Tensor) -> Tensor:
    scales, centres = torch.tensor(SCALES, dtype=torch.float64), 1e-4 * torch.tensor(CENTRES, dtype=torch.float64)
    heights = torch.tensor([1.0, 1.2, 3.0, 3.2], dtype=torch.float64)
    return -(heights * torch.exp(-(scales * (x[:, None] - centres) ** 2).sum(2))).sum(1)


FUNCTIONS = {
    "Branin": (branin, Space.box([-5, 0], [10, 15]), 1.0, 0.397887),
    "Hartmann-6": (hartmann, Space.box([0] * 6, [1] * 6), 0.1, -3.32237),
}
METHODS: dict[str, tuple[type[Bandit], dict]] = {
    "BPE, all values, beta 4": (BPE, {"keep": "all", "confidence": Confidence(beta=4.0)}),
    "BPE, a round's own values, beta 6": (BPE, {"confidence": Confidence(beta=6.0)}),
    "UCB-PE, beta 4": (UCBPE, {"confidence": Confidence(beta=4.0)}),
    "GP-BUCB, beta 4": (GPBUCB, {"confidence": Confidence(beta=4.0)}),
    "Thompson": (Thompson, {"confidence": Confidence(beta=4.0)}),
}


def one(method: type[Bandit], options: dict, function: Callable, space: Space, noise: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    bandit = method(space, horizon=64, batches=[16] * 4, maximize=False, seed=seed, **options)
    while not bandit.done:
        points = bandit.ask()
        draws = torch.randn(len(points), generator=generator, dtype=torch.float64)
        bandit.tell(points, function(points) + noise * draws)
    return bandit.recommend()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| function | method | simple regret, median (mean) | bound holds | warned | CPU s a run |\n|---|---|---|---|---|---|"
    )
    for name, (function, space, noise, best) in FUNCTIONS.items():
        for words, (method, settings) in METHODS.items():
            regrets, held, warned, seconds = [], 0, 0, []
            for seed in range(options.seeds):
                found = []

                def run(seed: int = seed, found: list = found, each=(method, settings, function, space, noise)) -> None:
                    found.append(one(*each, seed))

                seconds.append(clock(run))
                point = torch.tensor([found[0].point], dtype=torch.float64)
                regrets.append(float(function(point)[0]) - best)
                held += regrets[-1] <= found[0].regret_bound
                warned += bool(found[0].warnings)
            print(
                f"| {name} | {words} | {statistics.median(regrets):.3f} ({statistics.mean(regrets):.3f}) | {held} of {options.seeds} | "
                f"{warned} of {options.seeds} | {statistics.median(seconds):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
