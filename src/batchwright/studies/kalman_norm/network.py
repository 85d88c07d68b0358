"""The study's network: a pre-activation residual network whose shortcuts have no parameters, with batch norm in every place.

Source: official code of Wang et al. (2018): the first block of the network has no norm of its own before its first convolution; where
channels double, the shortcut is averaged over 2 x 2 pixels and padded with as many zero channels on both sides; He
initialisation by fan-out; a norm and a ReLU before the average over the image.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class PreActResNet(nn.Module):
    """One stage for each width, ``num_blocks`` blocks in each, the first of every later stage with stride 2.

    Args:
        in_channels: Of the images.
        widths: Channels of the stages, each twice the one before.
        num_blocks: Blocks in a stage; three stages of ``n`` make the published network of ``6 n + 2`` layers.
        generator: Of the initial weights.
        num_classes: Classes.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        widths: Sequence[int],
        num_blocks: int,
        generator: torch.Generator,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        channels = [widths[0], *(width for width in widths for _ in range(num_blocks))]
        self.blocks = nn.Sequential(
            *(_Block(before, after, first=place == 0) for place, (before, after) in enumerate(pairwise(channels)))
        )
        self.last_norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        bound = widths[-1] ** -0.5
        nn.init.uniform_(self.head.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each image."""
        hidden = self.blocks(functional.relu(self.norm(self.stem(images))))
        logits: Tensor = self.head(functional.relu(self.last_norm(hidden)).mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, before: int, after: int, *, first: bool) -> None:
        super().__init__()
        self.halves = before != after
        self.norm1 = None if first else nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=2 if self.halves else 1, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.new_channels = (after - before) // 2

    def forward(self, images: Tensor) -> Tensor:
        hidden = images if self.norm1 is None else functional.relu(self.norm1(images))
        hidden = self.conv2(functional.relu(self.norm2(self.conv1(hidden))))
        shortcut = images
        if self.halves:
            shortcut = functional.avg_pool2d(images, 2)
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.new_channels, self.new_channels))
        total: Tensor = shortcut + hidden
        return total
