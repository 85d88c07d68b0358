"""How near is your model to the edge of stability? Batch sharpness over 2/lr, at the batch size and the lr that you train with.

Run: python examples/sharpness_of_your_model.py
"""

from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import batchwright as bw

LR, BATCH_SIZE = 0.25, 32


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One loss an example: squared, for which the edge is clearest."""
    return (model(batch[0]) - batch[1]).square().sum(dim=1) / 2


def batches(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Independent batches without an end; no more of them are taken than the error needs."""
    while True:
        chosen = torch.randint(len(inputs), (BATCH_SIZE,), generator=generator)
        yield inputs[chosen], targets[chosen]


def main() -> None:
    """Plain SGD on a thousand digits; the gauge before, on the way and at the end."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(pixels[:1000] / 16, dtype=torch.float32)
    targets = F.one_hot(torch.tensor(labels[:1000]), 10).float()
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    draw = batches(inputs, targets, torch.Generator().manual_seed(1))
    for step in range(3001):
        if step in (0, 100, 1000, 3000):
            found = bw.measure.batch_sharpness(model, loss, draw, relative_error=0.05)
            gauge = bw.measure.stability(lr=LR, batch_sharpness=found)
            print(
                f"step {step:4d}: batch sharpness {found.value:5.2f} +- {found.standard_error:.2f} from {found.num_batches} batches, "
                f"{found.value / (2 / LR):.2f} of 2/lr = {gauge.low:.0f}, {gauge.regime}"
            )
        optimizer.zero_grad()
        loss(model, next(draw)).mean().backward()
        optimizer.step()


if __name__ == "__main__":
    main()
