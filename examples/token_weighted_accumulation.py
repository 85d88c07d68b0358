"""A loss over tokens under accumulation is that of the big batch, whatever the lengths of the sequences and the parts are.

Run: python examples/token_weighted_accumulation.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import batchwright as bw


def token_losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """One loss a token, shape (B, T)."""
    return F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")


def flat(model: nn.Module) -> Tensor:
    """The gradient as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def main() -> None:
    """One step of 48 sequences in parts of 7: against one forward pass of all 48, and against the mean of the parts' means."""
    torch.manual_seed(0)
    tokens = torch.randint(50, (48, 65))
    lengths = torch.randint(2, 65, (48, 1))
    mask = (torch.arange(64) < lengths).float()  # 1 for a token, 0 for padding
    model = nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 50)).double()
    mask = mask.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    ((token_losses(model, tokens) * mask).sum() / mask.sum()).backward()
    big_batch = flat(model)

    optimizer.zero_grad()
    parts = list(zip(tokens.split(7), mask.split(7), strict=True))
    for some, weights in parts:
        mean = (token_losses(model, some) * weights).sum() / weights.sum()
        (mean / len(parts)).backward()  # what many loops do
    mean_of_means = flat(model)

    data = TensorDataset(tokens, mask)
    engine = bw.BatchEngine(model, optimizer, data, batch_size=48, micro_batch_size=7)
    for update in engine:
        for some, weights in update:
            update.backward(token_losses(model, some), weights=weights)
    scale = big_batch.norm()
    print(f"sequences of {int(lengths.min())} to {int(lengths.max())} tokens, {update.num_micro_batches} micro-batches")
    print(f"mean of means: off by {float((mean_of_means - big_batch).norm() / scale):.1e}")
    print(f"engine: off by {float((flat(model) - big_batch).norm() / scale):.1e}")


if __name__ == "__main__":
    main()
