"""Cost of the noise scale inside a training step, as ratios to the plain step.

    python benchmarks/noise_overhead.py [--repeats N]

Process CPU time on one thread, plain and measured steps in turn, medians of the ratios of neighbours. "Parts already there": both
steps accumulate the same micro-batches. "Batch split in two": the plain step takes the batch whole. Set MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchwright.core.objectives import accumulate_gradient
from batchwright.measure.running_noise import MicroBatchNorms

BATCH_SIZE = 128


def make_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def step_time_s(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple, num_parts: int, measured: bool
) -> float:
    start = time.process_time()
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
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = make_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batch = torch.randn(BATCH_SIZE, 3, 32, 32), torch.randint(10, (BATCH_SIZE,))
    print("| noise scale every step from | plain parts | parts | ratio | of the plain step, ms | target |")
    print("|---|---|---|---|---|---|")
    for name, plain_parts, parts, target in (
        ("parts already there", 2, 2, 1.02),
        ("parts already there", 4, 4, 1.02),
        ("parts already there", 8, 8, 1.05),
        ("a batch split in two", 1, 2, 1.05),
    ):
        ratios, plain_times = [], []
        for repeat in range(repeats + 2):
            plain = step_time_s(model, optimizer, batch, plain_parts, measured=False)
            measured = step_time_s(model, optimizer, batch, parts, measured=True)
            if repeat >= 2:  # the first steps fill caches
                ratios.append(measured / plain)
                plain_times.append(plain)
        ms = 1e3 * statistics.median(plain_times)
        print(
            f"| {name} | {plain_parts} | {parts} | {statistics.median(ratios):.3f} | {ms:.0f} | ≤ {target} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
