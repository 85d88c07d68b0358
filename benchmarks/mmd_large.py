"""Squared MMD of very many points in bounded memory: time and peak of resident memory of one call.

    OMP_NUM_THREADS=1 python -m benchmarks.mmd_large [POINTS] [value|gradient]

Two samples of so many rows of 128 numbers (100,000 where left out), float32, the kernel of MMD GAN, on one thread. A matrix of all
pairs of 200,000 points would take 149 GiB. The estimate stands beside the mean of the unbiased ones of 20 parts of the samples.
"""

import sys
import time
from pathlib import Path

import torch

from batchwright.gan import mmd2

DIM, NUM_PARTS, PART = 128, 20, 500


def peak_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main(num: int, with_gradient: bool) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, DIM, generator=generator)
    y = torch.randn(num, DIM, generator=generator).add_(0.1).requires_grad_(with_gradient)
    parts = torch.stack(
        [
            mmd2(x[PART * i : PART * (i + 1)], y.detach()[PART * i : PART * (i + 1)])
            for i in range(min(NUM_PARTS, num // PART))
        ]
    )
    before, start, wall = peak_kb(), time.process_time(), time.perf_counter()
    value = mmd2(x, y)
    if with_gradient:
        value.backward()
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    error = parts.std() / len(parts) ** 0.5
    print(f"{num:,} and {num:,} points of {DIM} numbers, {'value and gradient' if with_gradient else 'value'}")
    print(f"{seconds:.1f} s of processor time, {wall:.1f} s of wall-clock time; {1e9 * seconds / num**2:.1f} ns * N^2")
    print(f"peak {(peak_kb() - before) / 1024:.0f} MiB above the {before / 1024:.0f} MiB of before, points included")
    print(f"MMD^2 {value.item():.6f}; mean over parts of {PART}: {float(parts.mean()):.6f} +- {float(error):.6f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, "value" not in sys.argv[2:])
