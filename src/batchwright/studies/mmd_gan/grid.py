"""A grid of images as a PNG file, without a picture library."""

import base64
import struct
import zlib

import torch
from jaxtyping import Float
from torch import Tensor

GAP, GAP_LEVEL = 1, 128


def grid_png(images: Float[Tensor, "N C H W"], *, columns: int = 10, zoom: int = 1) -> bytes:
    """Images in [-1, 1] in rows of ``columns``, one pixel apart, as a PNG.

    Args:
        images: One or three channels; what is left of the last row stays grey.
        columns: Images in a row.
        zoom: Pixels of the file a pixel of an image, at each side.
    """
    levels = ((images.detach().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    num, channels, height, width = levels.shape
    rows = -(-num // columns)
    sheet = torch.full(
        (channels, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), GAP_LEVEL, dtype=torch.uint8
    )
    for index, level in enumerate(levels):
        top = GAP + index // columns * (height + GAP)
        left = GAP + index % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = level
    sheet = sheet.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    return png(sheet)


def png(sheet: Tensor) -> bytes:
    """A PNG of ``sheet``, uint8 of shape ``(1 or 3, height, width)``."""
    channels, height, width = sheet.shape
    pixels = sheet.movedim(0, 2).reshape(height, width * channels)
    # Each line begins with the number of its filter, 0 for none.
    lines = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), pixels], dim=1).contiguous()
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.numpy().tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def as_text(content: bytes) -> str:
    """Bytes in base64, for a record."""
    return base64.b64encode(content).decode("ascii")


def size_of_png(text: str) -> tuple[int, int]:
    """Width and height of a PNG in base64, from its header."""
    width, height = struct.unpack(">II", base64.b64decode(text[:64])[16:24])
    return width, height
