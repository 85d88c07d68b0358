"""A grid of samples as the text of a PNG file, which a record can hold."""

import base64
import struct

from jaxtyping import Float
from torch import Tensor

from batchwright.core.png import png_bytes
from batchwright.gan.grid import image_grid


def grid_png(images: Float[Tensor, "N C H W"], *, columns: int = 10, zoom: int = 1) -> bytes:
    """Images in [-1, 1] in rows of ``columns``, one pixel apart, as a PNG.

    Args:
        images: One or three channels; what is left of the last row stays grey.
        columns: Images in a row.
        zoom: Pixels of the file a pixel of an image, at each side.
    """
    return png_bytes(image_grid(images, columns=columns, scale=zoom))


def as_text(content: bytes) -> str:
    """Bytes in base64, for a record."""
    return base64.b64encode(content).decode("ascii")


def size_of_png(text: str) -> tuple[int, int]:
    """Width and height of a PNG in base64, from its header."""
    width, height = struct.unpack(">II", base64.b64decode(text[:64])[16:24])
    return width, height
