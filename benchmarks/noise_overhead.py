"""Cost of the noise scale inside a training step, as ratios to the plain step with 95 % intervals (benchmarks/ratios.py).

    python -m benchmarks.noise_overhead [--rounds N] [--rows 0 1 2 3 4]

Process CPU time on one thread. "Parts already there": both steps accumulate the same micro-batches. "Batch split in two": the plain
step takes the batch whole. The first row, the plain step against itself, shows what the rest is worth. "Its own calls": the
time inside the calls of the noise scale over the plain step; what they do to the caches is not in it. Set MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import statistics
import time
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


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple, num_parts: int, own_s: list[float] | None = None
) -> None:
    """A step from ``num_parts`` micro-batches; with the noise scale where ``own_s`` is given, to which its own seconds are added."""
    norms = MicroBatchNorms(list(model.parameters()))
    own = 0.0

    def after_micro_batch(num_examples: int) -> None:
        nonlocal own
        start = time.process_time()
        norms.after_micro_batch(num_examples)
        own += time.process_time() - start

    optimizer.zero_grad()
    accumulate_gradient(
        model,
        loss,
        batch,
        micro_batch_size=BATCH_SIZE // num_parts,
        after_micro_batch=None if own_s is None else after_micro_batch,
    )
    optimizer.step()
    if own_s is not None:
        start = time.process_time()
        norms.step_noise()
        own_s.append(own + time.process_time() - start)


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
    print(
        "| noise scale every step from | plain parts | parts | ratio (95 %) | its own calls | plain step, ms | target |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, plain_parts, parts, target in (ROWS[row] for row in options.rows):
        own_s: list[float] = []
        plain = partial(step, model, optimizer, batch, plain_parts)
        measured = partial(step, model, optimizer, batch, parts, None if target is None else own_s)
        ratio = time_ratio(plain, measured, options.rounds)
        own = f"{statistics.median(own_s) / ratio.plain_s:.3f}" if own_s else ""
        goal = "" if target is None else f"≤ {target}"
        print(
            f"| {name} | {plain_parts} | {parts} | {ratio} | {own} | {1e3 * ratio.plain_s:.0f} | {goal} |", flush=True
        )


if __name__ == "__main__":
    main()
