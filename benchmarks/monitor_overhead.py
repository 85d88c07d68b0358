"""What the stability gauge beside a run costs: CPU time of a watched run over that of a plain one, from blocks of steps in turn.

    python -m benchmarks.monitor_overhead [--cases N ...] [--repeats N]

Process CPU time on one thread; the monitor has its defaults (a budget of 0.05) and measures fresh batches. "Inside" is the CPU time
within `after_step` over that of the same run's own steps, "own account" the share that the monitor states, by the clock, and "without
a reading" the time of a call that measured nothing. Blocks of a plain and of a watched run follow one another, each run with a model
of its own. Set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from batchwright.measure import StabilityMonitor
from batchwright.tasks.classification import cross_entropy
from batchwright.tasks.digits import digits_mlp
from benchmarks.batch_sharpness import Batch, loss
from benchmarks.per_example_norms import Transformer, make_cnn

BLOCK = 20


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with its data and the steps of one repeat."""

    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Batch], Tensor]
    inputs: Tensor
    targets: Tensor
    batch_size: int
    lr: float
    num_steps: int

    def draw(self, generator: torch.Generator, batch_size: int) -> Batch:
        indices = torch.randperm(len(self.inputs), generator=generator)[:batch_size]
        return self.inputs[indices], self.targets[indices]


def cnn_case() -> Case:
    torch.manual_seed(0)
    y = torch.randint(0, 10, (2048,))
    x = torch.randn(len(y), 3, 32, 32) + 0.25 * torch.randn(10, 3, 32, 32)[y]
    return Case(make=make_cnn, loss=loss, inputs=x, targets=y, batch_size=128, lr=0.02, num_steps=600)


def gpt_case() -> Case:
    torch.manual_seed(0)
    tokens = torch.randint(0, 3, (2048, 65)).cumsum(1) % 65
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    make = lambda: Transformer(depth=2)  # noqa: E731
    return Case(make=make, loss=loss, inputs=x, targets=y, batch_size=32, lr=0.05, num_steps=600)


def digits_case() -> Case:
    task = digits_mlp()
    x, y = task.train.tensors
    return Case(
        make=lambda: task.make_model(0),
        loss=cross_entropy,
        inputs=x,
        targets=y,
        batch_size=32,
        lr=0.05,
        num_steps=12000,
    )


CASES = {"3-conv CNN, B=128": cnn_case, "2-layer GPT, B=32, T=64": gpt_case, "digits-mlp, B=32": digits_case}


class Looped:
    """One run; ``seconds`` are its own steps', ``measured`` those of calls with a reading, ``idle`` those of the others."""

    def __init__(self, case: Case, seed: int, *, watched: bool) -> None:
        torch.manual_seed(seed)
        self.case, self.model = case, case.make()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=case.lr, momentum=0.9)
        self.generator = torch.Generator().manual_seed(seed)
        self.monitor = None
        if watched:
            self.monitor = StabilityMonitor(
                self.model, case.loss, self.optimizer, draw_batch=case.draw, num_train=len(case.inputs), seed=seed
            )
        self.seconds = self.total = 0.0
        self.measured: list[float] = []
        self.idle: list[float] = []

    def block(self, num_steps: int) -> None:
        first = time.process_time()
        for _ in range(num_steps):
            start = time.process_time()
            batch = self.case.draw(self.generator, self.case.batch_size)
            self.optimizer.zero_grad()
            self.case.loss(self.model, batch).mean().backward()
            self.optimizer.step()
            end = time.process_time()
            self.seconds += end - start
            reading = None if self.monitor is None else self.monitor.after_step(batch)
            (self.idle if reading is None else self.measured).append(time.process_time() - end)
        self.total += time.process_time() - first


def repeat(case: Case, seed: int) -> tuple[Looped, Looped]:
    plain, watched = Looped(case, seed, watched=False), Looped(case, seed, watched=True)
    for number in range(case.num_steps // BLOCK):
        for each in (plain, watched) if number % 2 else (watched, plain):
            each.block(BLOCK)
            if each is plain and watched.monitor is not None:
                # The other run's block is no training of this one, and the monitor takes all time between its calls for that.
                watched.monitor._mark = None
    same = all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True))
    assert same, "the watched run is not the plain one"
    return plain, watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", choices=range(len(CASES)), default=range(len(CASES)))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network | steps | readings | watched over plain | inside | own account | without a reading, a call | plain step |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for index in options.cases:
        name, make = list(CASES.items())[index]
        case = make()
        repeat(Case(**{**case.__dict__, "num_steps": 2 * BLOCK}), 99)  # imports and first allocations
        found = [repeat(case, seed) for seed in range(options.repeats)]
        ratios = [watched.total / plain.total for plain, watched in found]
        inside = [(sum(one.measured) + sum(one.idle)) / one.seconds for _, one in found]
        # Less what the clock itself takes, as the plain run shows it.
        account = [one.monitor.share for _, one in found if one.monitor is not None]
        idle = statistics.median(statistics.median(one.idle) - statistics.median(plain.idle) for plain, one in found)
        plain_s = statistics.median(plain.seconds / case.num_steps for plain, _ in found)
        readings = ", ".join(str(len(one.measured)) for _, one in found)
        spans = [
            f"{statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"
            for values in (ratios, inside, account)
        ]
        print(
            f"| {name} | {case.num_steps} | {readings} | {spans[0]} | {spans[1]} | {spans[2]} | {1e6 * idle:.1f} µs, "
            f"{100 * idle / plain_s:.2f} % of a step | {1e3 * plain_s:.2f} ms |",
            flush=True,
        )


if __name__ == "__main__":
    main()
