"""Muon for the matrices of a small GPT of your own, AdamW for the rest: which parameter went where, and the loss beside AdamW's alone.

Which of them is ahead depends on the task, on the lr and on how long you train; here both get to what can be foretold.

Run: python examples/muon_in_your_loop.py
"""

from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import batchwright as bw

VOCABULARY, LENGTH, WIDTH, STEPS, LR = 32, 24, 48, 120, 1e-2


class Block(nn.Module):
    """Attention, then a perceptron, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, T, width) in and out."""
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(2, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Two blocks between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token, shape (B, T, V)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def batches(seed: int) -> Tensor:
    """Endless texts whose second half repeats the first, which cannot be foretold: no loss can fall below ln(32) * 11 / 23 = 1.66."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        half = torch.randint(VOCABULARY, (32, LENGTH // 2), generator=generator)
        yield torch.cat([half, half], dim=1)


def train(optimizer_of) -> float:
    """Mean loss of a token over the last ten steps."""
    torch.manual_seed(0)
    model = GPT()
    optimizer = optimizer_of(model)
    losses = []
    for text in islice(batches(1), STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def muon(model: nn.Module) -> torch.optim.Optimizer:
    """The lr of AdamW for all groups: each update is made as long as AdamW's would be."""
    groups = bw.optim.param_groups(model, adamw_lr=LR)
    print(groups.table())
    return bw.optim.Muon(groups, lr=LR, adjust_lr_fn="match_rms_adamw", weight_decay=0.0)


if __name__ == "__main__":
    adamw = train(lambda model: torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0))
    print(f"loss after {STEPS} steps: AdamW {adamw:.3f}, Muon {train(muon):.3f}")
