"""Cost of the noise scale inside a training step, as ratios to the plain step with 95 % intervals (benchmarks/ratios.py).

    python -m benchmarks.noise_overhead [--rounds N] [--rows 0 1 2 3 4]

Process CPU time on one thread. "Parts already there": both steps accumulate the same micro-batches. "Batch split in two": the plain
step takes the batch whole. The first row, the plain step against itself, shows what the rest is worth. Set MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchwright.core.objectives import accumulate_gradient
from batchwright.measure.running_noise import MicroBatchNorms
from benchmarks.ratios import time_ratio

BATCH_SIZE = 128
# Name, micro-batches of the plain and of the measured step, target.
ROWS = (
    ("nothing", 4, 4, None),
    ("parts already there", 2, 2, 1.02),
    ("parts already there", 4, 4, 1.02),
    ("parts already there", 8, 8, 1.05),
    ("a batch split in two", 1, 2, 1.05),
)


def make_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple, num_parts: int, *, measured: bool) -> None:
    norms = MicroBatchNorms(list(model.parameters())) if measured else None
    optimizer.zero_grad()
    accumulate_gradient(
        model,
        loss,
        batch,
        micro_batch_size=BATCH_SIZE // num_parts,
        after_micro_batch=norms.after_micro_batch if norms else None,
    )
    optimizer.step()
    if norms:
        norms.step_noise()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rows", type=int, nargs="+", choices=range(len(ROWS)), default=range(len(ROWS)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = make_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batch = torch.randn(BATCH_SIZE, 3, 32, 32), torch.randint(10, (BATCH_SIZE,))
    print("| noise scale every step from | plain parts | parts | ratio (95 %) | of the plain step, ms | target |")
    print("|---|---|---|---|---|---|")
    for name, plain_parts, parts, target in (ROWS[row] for row in options.rows):
        plain = partial(step, model, optimizer, batch, plain_parts, measured=False)
        measured = partial(step, model, optimizer, batch, parts, measured=target is not None)
        ratio = time_ratio(plain, measured, options.rounds)
        goal = "" if target is None else f"≤ {target}"
        print(f"| {name} | {plain_parts} | {parts} | {ratio} | {1e3 * ratio.plain_s:.0f} | {goal} |", flush=True)


if __name__ == "__main__":
    main()
