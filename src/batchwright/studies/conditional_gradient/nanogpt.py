"""The network of the published runs: a GPT of 124 million parameters without a vector among them.

Source: Islamov et al. (2026), arXiv:2603.21191, its NanoGPT runs (papers-2026, 3.7): 12 layers, 6 heads, width 768, vocabulary
50304, tied weights, ReLU squared, rotary positions, RMS norm without parameters. Queries and keys are normalised too, as in the
code base that the paper names (modded-nanogpt); its text does not say so.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

# The published layouts by size; the second is the one that settings are carried to.
LAYOUTS: Mapping[str, Mapping[str, int]] = {
    "124M": {"num_symbols": 50304, "width": 768, "num_heads": 6, "num_layers": 12},
    "1B": {"num_symbols": 50304, "width": 2048, "num_heads": 16, "num_layers": 18},
}
ROTARY_BASE = 10_000.0


class NanoGPT(nn.Module):
    """Tied token embedding and head, and blocks of causal attention and MLP; all weights are matrices."""

    def __init__(self, *, num_symbols: int, width: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_symbols, width)
        self.blocks = nn.Sequential(*(_Block(width, num_heads) for _ in range(num_layers)))
        self.head = nn.Linear(width, num_symbols, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, symbols: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Logits of the symbol that follows each position."""
        hidden = self.blocks(_norm(self.tokens(symbols)))
        logits: Tensor = self.head(_norm(hidden))
        return logits.float()


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.project = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        normed = _norm(hidden)
        query, key, value = (
            part(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        query, key = rotate(_norm(query)), rotate(_norm(key))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.project(mixed.transpose(1, 2).flatten(2))
        result: Tensor = hidden + self.down(functional.relu(self.up(_norm(hidden))).square())
        return result


def rotate(vectors: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D"]:
    """Rotary positions: the pair of entries ``i`` and ``i + D/2`` is turned by ``t`` times its frequency."""
    half = vectors.shape[-1] // 2
    frequencies = ROTARY_BASE ** -(torch.arange(half, device=vectors.device, dtype=torch.float32) / half)
    angles = torch.arange(vectors.shape[-2], device=vectors.device, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    one, other = vectors[..., :half], vectors[..., half:]
    return torch.cat((one * cos - other * sin, one * sin + other * cos), dim=-1)


def _norm(vectors: Tensor) -> Tensor:
    normed: Tensor = functional.rms_norm(vectors, (vectors.shape[-1],))
    return normed


def sequence_losses(model: nn.Module, sequences: Int[Tensor, "B T1"]) -> Float[Tensor, " B"]:
    """Cross-entropy in nats a token, averaged over the positions of each sequence."""
    logits = model(sequences[:, :-1])
    losses = functional.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten(), reduction="none")
    return losses.view(len(sequences), -1).mean(dim=1)


def make_nanogpt(layout: Mapping[str, Any]) -> NanoGPT:
    """A network of one of `LAYOUTS`, or of sizes of one's own."""
    return NanoGPT(**layout)
