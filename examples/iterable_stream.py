"""The batch size changes on the fly over an iterable data set, which has no length and cannot be indexed: no example is lost.

Run: python examples/iterable_stream.py
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import batchwright as bw


class Stream(IterableDataset):
    """A source that gives one example after the other."""

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for number in range(1000):
            x = torch.randn(8, generator=generator)
            yield number, x, (x[0] > 0).long()


def main() -> None:
    """The same schedule over the stream itself and over a DataLoader of it, whose batches of 32 are cut anew."""
    for name, source in (("stream", Stream()), ("DataLoader", DataLoader(Stream(), batch_size=32))):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        policy = bw.adapt.Schedule(schedule="0:16 200:50 600:128")
        engine = bw.BatchEngine(model, optimizer, source, policy=policy, batch_size=16, micro_batch_size=64)
        sizes: list[int] = []
        seen: list[int] = []
        for update in engine:  # one epoch
            for numbers, x, y in update:
                seen += numbers.tolist()
                update.backward(F.cross_entropy(model(x), y, reduction="none"))
            sizes.append(update.batch_size)
        print(f"{name}: {engine.num_steps} steps of {sorted(set(sizes[:-1]))} examples, the last of {sizes[-1]}")
        print(f"{name}: each of 1000 examples once and in order: {seen == list(range(1000))}")


if __name__ == "__main__":
    main()
