"""Images as PNG files with the standard library alone.

Source: W3C, *Portable Network Graphics (PNG) Specification*, third edition: signature, IHDR, IDAT and IEND, filter 0 on every row.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from batchwright.core.errors import InputError
from batchwright.core.records import write_bytes_atomically

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_bytes(pixels: UInt8[np.ndarray, "H W C"]) -> bytes:
    """Encode an image of 8 bits a channel.

    Args:
        pixels: One channel for grey or three for red, green, blue.

    Raises:
        InputError: If there are other channels, or no pixels.
    """
    height, width, channels = pixels.shape
    if channels not in (1, 3) or height == 0 or width == 0:
        raise InputError(f"pixels must be at least one of 1 or 3 channels, got shape {pixels.shape}")
    colour = 0 if channels == 1 else 2
    rows = np.ascontiguousarray(pixels).reshape(height, width * channels)
    filtered = np.concatenate([np.zeros((height, 1), dtype=np.uint8), rows], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"".join(
        [
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )


def write_png(path: Path, pixels: UInt8[np.ndarray, "H W C"]) -> None:
    """Write an image, atomically."""
    write_bytes_atomically(path, png_bytes(pixels))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
