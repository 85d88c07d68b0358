"""The running average of a network's parameters."""

import torch
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the parameters of ``average`` towards those of ``network`` by ``1 - decay``; buffers are copied."""
    for kept, value in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(value, 1 - decay)
    for buffer, new in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(new)
