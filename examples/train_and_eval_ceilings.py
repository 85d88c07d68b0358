"""Will it fit? The largest micro-batch for training and, apart from it, for evaluation, without running out of memory.

Run: python examples/train_and_eval_ceilings.py
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.measure.simulated_device import SimulatedDevice

BUDGET = 32 * 2**20  # bytes; leave it out for what the device has


def make_task() -> bw.Task:
    """A perceptron on random numbers; the steps are real ones."""
    data = TensorDataset(torch.randn(8192, 256), torch.randint(10, (8192,)))
    return bw.Task(
        name="fits",
        model=lambda: nn.Sequential(
            nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
        ),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        train=data,
        evaluation=data,
        optimizer=bw.OptimizerSpec(name="adam", lr=1e-3),
        target=bw.Target(value=0.1),
    )


def main() -> None:
    """Measure both ceilings; then a small device, simulated, on which the prediction is tried."""
    torch.manual_seed(0)
    task = make_task()
    for mode in ("train", "eval"):
        found = bw.measure.memory(task, mode=mode, budget_bytes=BUDGET)
        print(
            f"{mode}: micro-batch {found.max_micro_batch_size}, {found.fixed_bytes / 2**20:.1f} MiB and "
            f"{found.bytes_per_example:.0f} bytes an example, {found.num_steps} steps, {found.num_failed} out of memory"
        )
        if mode == "train":
            ceiling = found.max_micro_batch_size
    for size in (ceiling, round(1.1 * ceiling)):
        try:
            with SimulatedDevice(BUDGET):
                train_two_micro_batches(task, size)
            print(f"a step of micro-batches of {size}: fits")
        except torch.OutOfMemoryError:
            print(f"a step of micro-batches of {size}: out of memory")


def train_two_micro_batches(task: bw.Task, size: int) -> None:
    """A first step, and one that accumulates: from then on gradients and Adam's state are there."""
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        inputs, targets = torch.randn(size, 256), torch.randint(10, (size,))
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


if __name__ == "__main__":
    main()
