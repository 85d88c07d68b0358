"""The noise scale of each layer with its interval, and exact norms of single examples' gradients through LayerNorm and attention.

Run: python examples/noise_scale_by_layer.py
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import batchwright as bw


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One loss a sequence: its class from the mean of its tokens' logits."""
    return F.cross_entropy(model(batch[0]).mean(dim=1), batch[1], reduction="none")


def main() -> None:
    """A few steps of training, then both measurements; the parts' traces add up to the whole's."""
    torch.manual_seed(0)
    tokens = torch.randint(20, (4096, 12))
    classes = tokens[:, 0] % 4
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.Sequential(OrderedDict(embed=nn.Embedding(20, 16), block=block, head=nn.Linear(16, 4)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for part in torch.randperm(4096).split(64)[:20]:
        optimizer.zero_grad()
        loss(model, (tokens[part], classes[part])).mean().backward()
        optimizer.step()

    batches = [(tokens[part], classes[part]) for part in torch.randperm(4096).split(64)]
    groups = {name: list(module.parameters()) for name, module in model.named_children()}
    groups["norms"] = [*block.norm1.parameters(), *block.norm2.parameters()]
    for name, noise in bw.measure.noise_scale_by_group(model, loss, batches, groups=groups).items():
        print(f"{name:6s} noise scale {noise.value:6.1f}  [{noise.low:.1f}, {noise.high:.1f}]")
    whole = bw.measure.noise_scale(model, loss, batches)
    print(f"{'whole':6s} noise scale {whole.value:6.1f}  [{whole.low:.1f}, {whole.high:.1f}]")

    first = batches[0]
    norms = bw.measure.per_example_grad_norms(model, loss, first)
    slow = []
    for row in range(64):  # what it is checked against here: one backward pass an example
        model.zero_grad()
        loss(model, (first[0][row : row + 1], first[1][row : row + 1])).sum().backward()
        slow.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm())
    error = float((norms - torch.stack(slow)).abs().max() / norms.max())
    print(f"norms of 64 examples' gradients from {norms.min():.2f} to {norms.max():.2f}, off by {error:.0e} at most")


if __name__ == "__main__":
    main()
