"""Out of memory? The micro-batch is halved, the batch stays: `engine.step` on a device that is simulated to be too small.

Run: python examples/keep_batch_after_oom.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.measure.simulated_device import SimulatedDevice


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One loss an example."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def train(data: TensorDataset, micro_batch_size: int, num_steps: int) -> tuple[Tensor, bw.BatchEngine]:
    """The parameters after some steps of 128 examples."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    engine = bw.BatchEngine(model, optimizer, data, batch_size=128, micro_batch_size=micro_batch_size)
    for _ in range(num_steps):
        engine.step(loss)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), engine


def main() -> None:
    """A run that meets the end of memory, and one that knew the right micro-batch from the beginning."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(1024, 64), torch.randint(10, (1024,)))
    with SimulatedDevice(400_000) as device:
        met, engine = train(data, micro_batch_size=128, num_steps=12)
    print(f"{device.num_failed} times out of memory, then micro-batches of {engine.micro_batch_size}")
    print(f"batch size {engine.batch_size}, {engine.num_steps} steps, {engine.num_examples} examples")
    knew, _ = train(data, micro_batch_size=engine.micro_batch_size, num_steps=12)
    print(f"parameters are those of a run that began with them: {torch.equal(met, knew)}")


if __name__ == "__main__":
    main()
