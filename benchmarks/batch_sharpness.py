"""Cost of batch sharpness in plain steps a batch, and how far its differences are from second derivatives.

    python -m benchmarks.batch_sharpness [--repeats N] [--batches N]

Process CPU time on one thread; plain step, difference and second derivatives in turn on the same batch, medians of the ratios of
neighbours. The gradient is part of each cost. The accuracy is that of the mean over fresh batches, in float32, against second
derivatives in float64. Set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.vectors import trainable
from batchwright.measure import batch_sharpness
from batchwright.measure.curvature.batch_curvature import batch_curvature
from batchwright.measure.curvature.value_difference import ValueDifference
from benchmarks.per_example_norms import Transformer, example_losses, make_cnn

Batch = tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return example_losses(model(batch[0]), batch[1])


def cnn_case(num_batches: int) -> tuple[nn.Module, list[Batch]]:
    """The 3-conv network of 189k parameters at batch 128, on ten classes that are told apart by a faint image each."""
    torch.manual_seed(0)
    y = torch.randint(0, 10, (128 * num_batches,))
    x = torch.randn(len(y), 3, 32, 32) + 0.25 * torch.randn(10, 3, 32, 32)[y]
    return make_cnn(), list(zip(x.split(128), y.split(128), strict=True))


def gpt_case(num_batches: int) -> tuple[nn.Module, list[Batch]]:
    """Two layers of width 128 at batch 32, context 64, on random walks over 65 symbols."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 3, (32 * num_batches, 65)).cumsum(1) % 65
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return Transformer(depth=2), list(zip(x.split(32), y.split(32), strict=True))


CASES = {"3-conv CNN, B=128": cnn_case, "2-layer GPT, B=32, T=64": gpt_case}


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    optimizer.zero_grad()
    loss(model, batch).mean().backward()
    optimizer.step()


def clock(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def costs(model: nn.Module, batch: Batch, repeats: int) -> tuple[float, float, float]:
    """Seconds of a plain step, and plain steps that a difference and a double backward pass take."""
    parameters = trainable(model)
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    difference = ValueDifference(model, loss, parameters)
    difference(batch)  # the first one is the check
    rows = []
    for _ in range(repeats + 2):
        plain = clock(lambda: plain_step(model, optimizer, batch))
        rows.append(
            (
                plain,
                clock(lambda: difference(batch)) / plain,
                clock(lambda: batch_curvature(model, loss, batch, parameters)) / plain,
            )
        )
    assert not difference.reason, difference.reason
    plain, first, second = (statistics.median(row[k] for row in rows[2:]) for k in range(3))
    return plain, first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--batches", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, make in CASES.items():
        model, batches = make(60 + options.batches)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for batch in batches[:60]:
            plain_step(model, optimizer, batch)
        fresh = batches[60:]
        plain, difference, exact = costs(model, fresh[0], options.repeats)
        whole = clock(lambda: batch_sharpness(model, loss, fresh, relative_error=1e-9)) / plain / len(fresh)  # noqa: B023
        found = batch_sharpness(model, loss, fresh, relative_error=1e-9)
        wide = [(x.double() if x.is_floating_point() else x, y) for x, y in fresh]
        oracle = batch_sharpness(model.double(), loss, wide, relative_error=1e-9, method="exact")
        print(f"{name}: plain step {1e3 * plain:.1f} ms")
        print(
            f"  difference         {difference:5.2f} plain steps a batch; {whole:.2f} with its first batch's check, {len(fresh)}"
        )
        print(f"  second derivatives {exact:5.2f} plain steps a batch")
        print(
            f"  value {found.value:.5g} +- {found.standard_error:.2g} ({found.method}); in float64 {oracle.value:.5g} +- "
            f"{oracle.standard_error:.2g}: {100 * (found.value / oracle.value - 1):+.3f} % apart"
        )


if __name__ == "__main__":
    main()
