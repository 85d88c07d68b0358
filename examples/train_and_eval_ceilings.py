"""Will it fit? The largest micro-batch for training and, apart from it, for evaluation, without running out of memory.

Run: python examples/train_and_eval_ceilings.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.measure.simulated_device import SimulatedDevice

BUDGET = 32 * 2**20  # bytes; leave it out for what the device has


def make_model() -> nn.Module:
    """A perceptron."""
    return nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One loss an example."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def train(size: int) -> None:
    """Two steps: with the second, gradients and Adam's state are there already."""
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        loss(model, (torch.randn(size, 256), torch.randint(10, (size,)))).mean().backward()
        optimizer.step()


def main() -> None:
    """Measure both ceilings; then a small device, simulated, on which the prediction is tried."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(8192, 256), torch.randint(10, (8192,)))
    adam = bw.OptimizerSpec(name="adam", lr=1e-3)
    task = bw.Task(name="fits", model=make_model, loss=loss, train=data, evaluation=data, optimizer=adam)
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
                train(size)
            print(f"a step of micro-batches of {size}: fits")
        except torch.OutOfMemoryError:
            print(f"a step of micro-batches of {size}: out of memory")


if __name__ == "__main__":
    main()
