"""The memory ceiling of five model families on a simulated device: ours, and the finders of Lightning and Accelerate where installed.

    python -m benchmarks.memory_ceiling

Allocations fail past a limit of live tensors. The true ceiling comes from bisecting real steps to the last example. A step adds a
micro-batch to gradients that are there and updates, for all methods alike. Cost is the process CPU time of the whole search over that
of a plain step of 128 examples without the simulation; the simulation itself, which watches each operation, is in it.

The finders are the packages' own (benchmarks/finders.py). Their steps past the true ceiling fail at once, without the simulation,
which is to their advantage in time.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from batchwright.measure.memory import memory
from batchwright.measure.memory_steps import Steps
from batchwright.measure.simulated_device import SimulatedDevice
from batchwright.tasks.task import OptimizerSpec, Task
from benchmarks.finders import finders, out_of_memory, search

NUM_EXAMPLES = 4096
PLAIN = 128
CEILING = 777


class Transformer(nn.Module):
    def __init__(self, dim: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(65, dim), nn.Linear(dim, 10)
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(dim, 4, 4 * dim, dropout=0.0, batch_first=True) for _ in range(depth))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(tokens)).mean(1))


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(before, after, 3, stride, 1), nn.Conv2d(after, after, 3, 1, 1)
        self.skip = nn.Conv2d(before, after, 1, stride)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.norm2(self.two(F.relu(self.norm1(self.one(x))))))


class UNet(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(2 * width, width, 2, 2), nn.Conv2d(2 * width, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu(self.first(x))
        deep = F.relu(self.down(F.max_pool2d(wide, 2)))
        return self.last(torch.cat([wide, self.up(deep)], dim=1)).mean((2, 3))


def images(side: int = 16) -> Tensor:
    return torch.randn(NUM_EXAMPLES, 3, side, side, generator=torch.Generator().manual_seed(0))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def resnet() -> nn.Module:
    return nn.Sequential(Block(3, 8, 1), Block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def tasks() -> list[Task]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 65, (NUM_EXAMPLES, 32), generator=generator)
    families = [
        ("CNN", cnn, images(), "sgd"),
        ("MLP", mlp, images(), "adamw"),
        ("transformer", Transformer, tokens, "adamw"),
        ("ResNet, BatchNorm", resnet, images(), "sgd"),
        ("U-Net", UNet, images(), "adam"),
    ]
    labels = torch.randint(0, 10, (NUM_EXAMPLES,), generator=generator)
    return [
        Task(
            name=name,
            model=model,
            loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none"),
            train=TensorDataset(inputs, labels),
            optimizer=OptimizerSpec(name=optimizer, lr=0.01),
            batch_size=PLAIN,
        )
        for name, model, inputs, optimizer in families
    ]


def bisected(runs: Callable[[int], bool], fits: int, fails: int) -> int:
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if runs(middle) else (fits, middle)
    return fits


def plain_step_s(task: Task) -> float:
    steps = Steps(task, 0, torch.device("cpu"))
    return statistics.median(timed(lambda: steps.runs(PLAIN)) for _ in range(7))


def timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def row(name: str, size: int, true: int, plain: float, examples: int, failed: int) -> None:
    share, cost = size / true, examples / PLAIN
    print(f"| {name} | {size} | {share:.1%} | {plain:.1f} | {cost:.1f} | {failed} |", flush=True)


def compare(task: Task) -> None:
    probe = Steps(task, 0, torch.device("cpu"))
    limit = max(probe.timeline(CEILING))
    with SimulatedDevice(limit):
        true = bisected(Steps(task, 0, torch.device("cpu")).runs, CEILING // 2, 2 * CEILING)
    unit = plain_step_s(task)
    print(f"\n{task.name}: limit {limit:,} bytes, true ceiling {true}, plain step {1e3 * unit:.1f} ms\n")
    print("| method | found | of the true one | plain steps, time | plain steps, examples | failed |")
    print("|---|---:|---:|---:|---:|---:|")
    device = SimulatedDevice(limit)
    start = time.process_time()
    with device:
        found = memory(task, budget_bytes=limit, confirm_plain_steps=1000.0)
    seconds = time.process_time() - start
    assert found.confirmed
    row("batchwright", found.max_micro_batch_size, true, seconds / unit, found.num_examples, device.num_failed)
    for name, find in finders().items():
        result = search(find, limited(Steps(task, 0, torch.device("cpu")), true), NUM_EXAMPLES)
        row(name, result.batch_size, true, result.cpu_s / unit, result.num_examples, result.num_failed)
        in_steps = result.cpu_in_steps_s / unit
        print(f"|   ({result.num_steps} steps, {in_steps:.1f} plain steps of time in them) | | | | | |", flush=True)


def limited(steps: Steps, ceiling: int) -> Callable[[int], None]:
    """A training step that runs out of memory above ``ceiling`` examples."""

    def train_step(batch_size: int) -> None:
        if batch_size > ceiling:
            raise out_of_memory()
        assert steps.runs(batch_size)

    return train_step


def main() -> None:
    torch.set_num_threads(1)
    for task in tasks():
        compare(task)


if __name__ == "__main__":
    main()
