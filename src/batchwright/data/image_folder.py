"""A folder of PNG and JPEG files as one array; folders inside it are classes. Needs Pillow, the extra ``images``.

Files that are no image, or damaged, are an error of one line that names the first of them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from batchwright.core.checks import check_int
from batchwright.core.errors import DataError, MissingExtraError

ENDINGS = (".png", ".jpg", ".jpeg")
MAX_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder:
    """Images of a folder.

    Attributes:
        images: In the order of their names.
        labels: Class of each; None where no folder parts them.
        classes: Names of the classes: the folders that hold them.
    """

    images: UInt8[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"] | None
    classes: tuple[str, ...]


def read_image_folder(folder: Path, size: int) -> ImageFolder:
    """Read every PNG and JPEG below ``folder``, cut to a square around its middle and scaled to ``size``.

    Images are grey where all of them are, and red, green and blue otherwise. Transparent parts are black. Hidden files and folders are
    left out.

    Args:
        folder: Files at any depth; where all of them lie in two or more folders directly below it, those are the classes.
        size: Pixels of each side that is wanted.

    Raises:
        DataError: If there is no image, one cannot be read, or all together would need more than 4 GiB.
        MissingExtraError: If Pillow is not installed.
    """
    check_int("size", size, at_least=1)
    if not folder.is_dir():
        raise DataError(f"a folder of images must be there, got {str(folder)!r}")
    library = _pillow()
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise DataError(f"a folder of images must hold .png or .jpg files, got none in {str(folder)!r}")
    if 3 * size * size * len(paths) > MAX_BYTES:
        raise DataError(
            f"a folder of images must fit in memory, got {len(paths)} of {size} x {size}; take a smaller size or a part of them"
        )
    read = [_read(library, path, size) for path in paths]
    grey = all(pixels.shape[2] == 1 for pixels in read)
    stacked = np.stack([pixels if grey else np.broadcast_to(pixels, (size, size, 3)) for pixels in read])
    labels, classes = _classes(folder, paths)
    return ImageFolder(images=stacked, labels=labels, classes=classes)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "Pillow must be installed to read a folder of images, got none; pip install 'batchwright[images]'"
        ) from error
    return Image


def _read(library: Any, path: Path, size: int) -> UInt8[np.ndarray, "S S C"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", library.DecompressionBombWarning)
            with library.open(path, formats=("PNG", "JPEG")) as image:
                grey = image.mode in ("1", "L", "LA", "I", "I;16", "F")
                converted = image.convert("L" if grey else "RGB")
                side = min(converted.size)
                left, top = ((length - side) // 2 for length in converted.size)
                square = converted.crop((left, top, left + side, top + side))
                scaled = square.resize(
                    (size, size), library.Resampling.BOX if side >= size else library.Resampling.BICUBIC
                )
                pixels = np.asarray(scaled, dtype=np.uint8)
    # A damaged file raises one of many kinds, SyntaxError and struct.error among them.
    except Exception as error:
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(f"{path} must be a whole PNG or JPEG image, got {first}; mend it or take it out") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _classes(folder: Path, paths: Sequence[Path]) -> tuple[Int[np.ndarray, " N"] | None, tuple[str, ...]]:
    parts = [path.relative_to(folder).parts for path in paths]
    names = sorted({part[0] for part in parts if len(part) > 1})
    if len(names) < 2 or any(len(part) == 1 for part in parts):
        return None, ()
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[part[0]] for part in parts], dtype=np.int64), tuple(names)
