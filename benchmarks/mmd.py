"""Squared MMD of five Gaussians, forward and backward: this library, the form of the 2017 code, and geomloss where it is installed.

    OMP_NUM_THREADS=1 python -m benchmarks.mmd [ROUNDS]

Two batches of B rows of 128 numbers with a gradient each, float32, biased estimate, on one thread. First ratios of process CPU time
from steps in turn, median over rounds with its 95 % interval; then the growth of resident memory at its peak, each in a process of
its own; then the fit of the step's time to ``a + b B^2`` (target 7 of the paper's sheet).
"""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from batchwright.gan import mmd2
from benchmarks.ratios import clock, time_ratio

DIM, STDS = 128, (1.0, 2.0, 4.0, 8.0, 16.0)
BATCH_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
MEMORY_SIZES = (512, 1024, 2048, 4096)
Form = Callable[[Tensor, Tensor], Tensor]


def plain(x: Tensor, y: Tensor) -> Tensor:
    """The formula written down: one matrix of all pairs of both samples, an exponential a bandwidth, autograd."""
    z, num = torch.cat([x, y]), len(x)
    products = z @ z.T
    sq_norms = products.diagonal()
    distances = sq_norms[:, None] - 2 * products + sq_norms[None, :]
    gram = sum(torch.exp(-distances / (2 * std**2)) for std in STDS)
    return gram[:num, :num].mean() + gram[num:, num:].mean() - 2 * gram[:num, num:].mean()


def ours(x: Tensor, y: Tensor) -> Tensor:
    return mmd2(x, y, unbiased=False)


def geomloss() -> Form:
    """Its energy is half the squared MMD of one Gaussian; five of them make the mixture."""
    from geomloss import SamplesLoss

    losses = [SamplesLoss("gaussian", blur=std) for std in STDS]
    return lambda x, y: 2 * sum(loss(x, y) for loss in losses)


def step_of(form: Form, batch_size: int, repeats: int) -> Callable[[], None]:
    """Forward and backward pass, ``repeats`` times."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, DIM, generator=generator, requires_grad=True)
    y = torch.randn(batch_size, DIM, generator=generator).add_(0.1).requires_grad_()

    def step() -> None:
        for _ in range(repeats):
            x.grad = y.grad = None
            form(x, y).backward()

    return step


def times(rounds: int) -> None:
    peers: dict[str, Form] = {"plain form": plain}
    if find_spec("geomloss") is not None:
        peers["geomloss"] = geomloss()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    print("| batch | ours, ms | " + " | ".join(f"{name} / ours" for name in peers) + " |")
    print("| --- | --- |" + " --- |" * len(peers))
    for batch_size in BATCH_SIZES:
        repeats = max(1, 256 // batch_size)
        own = step_of(ours, batch_size, repeats)
        count = rounds if batch_size <= 1024 else max(3, rounds // 3)
        found = [time_ratio(own, step_of(form, batch_size, repeats), count) for form in peers.values()]
        own_ms = 1e3 * found[0].plain_s / repeats
        print(f"| {batch_size} | {own_ms:.2f} | " + " | ".join(map(str, found)) + " |", flush=True)


def peak_kb(form: str, batch_size: int) -> int:
    """Growth of the peak of resident memory over that of a small step, in KiB."""
    code = (
        "import benchmarks.mmd as m\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line for line in lines if line.startswith('VmHWM')).split()[1])\n"
        f"form = m.geomloss() if {form!r} == 'geomloss' else getattr(m, {form!r})\n"
        "m.step_of(form, 64, 2)()\n"
        "before = peak()\n"
        f"m.step_of(form, {batch_size}, 1)()\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def memory() -> None:
    print("\n| batch | ours, MiB | plain form, MiB | ours / plain |")
    print("| --- | --- | --- | --- |")
    for batch_size in MEMORY_SIZES:
        own, other = peak_kb("ours", batch_size), peak_kb("plain", batch_size)
        print(f"| {batch_size} | {own / 1024:.1f} | {other / 1024:.1f} | {own / other:.3f} |", flush=True)


def growth(rounds: int) -> None:
    """Time of a step over the batch size, fitted as ``a + b B^2`` with relative errors weighted alike."""
    sizes = (64, 256, 1024)
    seconds = []
    for batch_size in sizes:
        step = step_of(ours, batch_size, 1)
        step()
        seconds.append(float(np.median([clock(step) for _ in range(rounds)])))
    design = np.array([[1.0, size**2] for size in sizes]) / np.array(seconds)[:, None]
    (fixed, quadratic), *_ = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)
    error = max(abs(fixed + quadratic * size**2 - found) / found for size, found in zip(sizes, seconds, strict=True))
    print(f"\nstep = {1e3 * fixed:.3f} ms + {1e9 * quadratic:.1f} ns B^2; largest relative error {100 * error:.0f} %")


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    times(number)
    memory()
    growth(number)
