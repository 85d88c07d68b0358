"""Search the largest micro-batch in the middle of a run, by real steps of your own, and go on as if nothing had been.

Run: python examples/search_in_mid_run.py
"""

import torch
from torch import Tensor, nn

import batchwright as bw
from batchwright.measure.simulated_device import SimulatedDevice


def train(search: bool) -> tuple[Tensor, Tensor]:
    """Twenty steps with AdamW, dropout and running statistics; parameters and buffers at the end, and the next random number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sizes: list[int] = []

    def step(size: int) -> None:
        sizes.append(size)
        optimizer.zero_grad()
        model(torch.randn(size, 64)).square().mean().backward()
        optimizer.step()

    for number in range(20):
        if search and number == 10:
            sizes.clear()
            with SimulatedDevice(2_000_000) as device:  # leave it out on a device that really has an end
                found = bw.measure.trial_search(step, model, optimizer, max_micro_batch_size=8192)
            print(f"steps tried: {sizes}, {device.num_failed} out of memory")
            print(f"largest micro-batch {found.max_micro_batch_size}")
        step(16)
    values = [value.detach().double().flatten() for value in model.state_dict().values()]
    return torch.cat(values), torch.rand(1)


def main() -> None:
    """With and without the search."""
    (with_search, random), (without, random_too) = train(search=True), train(search=False)
    print(
        f"the run is the one without a search: {torch.equal(with_search, without) and torch.equal(random, random_too)}"
    )


if __name__ == "__main__":
    main()
