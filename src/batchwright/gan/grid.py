"""Samples as one picture: images beside and below each other, with a line between them."""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from batchwright.core.checks import check_int


@torch.no_grad()
def image_grid(
    images: Float[Tensor, "N C H W"], *, columns: int | None = None, scale: int = 1
) -> UInt8[np.ndarray, "Y X C"]:
    """Lay out images in [-1, 1], row by row, on a grey ground with one pixel between them.

    Args:
        images: Of 1 or 3 channels; values outside of the range are cut.
        columns: Images in a row; the root of their number, rounded up, where left out.
        scale: Pixels of the picture a pixel of an image.

    Example:
        >>> image_grid(torch.ones(4, 1, 2, 2)).shape
        (7, 7, 1)
    """
    check_int("scale", scale, at_least=1)
    num, channels, height, width = images.shape
    across = math.ceil(math.sqrt(num)) if columns is None else check_int("columns", columns, at_least=1)
    down = math.ceil(num / across)
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = pixels.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    height, width = height * scale, width * scale
    canvas = torch.full((channels, down * (height + 1) + 1, across * (width + 1) + 1), 96, dtype=torch.uint8)
    for number, image in enumerate(pixels):
        top, left = (number // across) * (height + 1) + 1, (number % across) * (width + 1) + 1
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).contiguous().numpy()
