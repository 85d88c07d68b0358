"""Residual networks for images of 32 x 32.

Source: He et al. (2016), arXiv:1512.03385, section 4.2, with shortcuts of kind A: no parameters, every second pixel, and
zeros for the new channels.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError

NORMS = ("batch", "group")
NUM_GROUPS = 8


class ResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with ``(depth - 2) / 6`` blocks each, averaged over the image.

    Args:
        depth: ``6 n + 2``.
        norm: ``batch`` as published, or ``group`` of eight groups.
        num_classes: Classes ``C``.

    Raises:
        InputError: If ``depth`` or ``norm`` is none of these.
    """

    def __init__(self, *, depth: int = 20, norm: str = "batch", num_classes: int = 10) -> None:
        super().__init__()
        check_choice("norm", norm, NORMS)
        if depth < 8 or (depth - 2) % 6 != 0:
            raise InputError(f"depth must be 6 n + 2, as 8, 14, 20, 32, 44, 56, 110, got {depth}")
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = _norm(norm, 16)
        channels = [16, *(width for width in (16, 32, 64) for _ in range((depth - 2) // 6))]
        self.blocks = nn.Sequential(*(_Block(before, after, norm) for before, after in pairwise(channels)))
        self.head = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Logits of each image."""
        hidden = self.blocks(functional.relu(self.norm(self.stem(images))))
        logits: Tensor = self.head(hidden.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, before: int, after: int, norm: str) -> None:
        super().__init__()
        self.stride = 1 if before == after else 2
        self.new_channels = after - before
        self.conv1 = nn.Conv2d(before, after, 3, stride=self.stride, padding=1, bias=False)
        self.norm1 = _norm(norm, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = _norm(norm, after)

    def forward(self, images: Float[Tensor, "B C1 H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        shortcut = images[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        hidden = functional.relu(self.norm1(self.conv1(images)))
        return torch.relu(self.norm2(self.conv2(hidden)) + shortcut)


def _norm(norm: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(NUM_GROUPS, channels)
