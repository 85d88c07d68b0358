"""Labelled images in the four IDX files of MNIST and its kin."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from batchwright.core.errors import DataError
from batchwright.data.readers import read_idx


def read_idx_images(
    folder: Path,
) -> tuple[Shaped[np.ndarray, "N H W"], Int64[np.ndarray, " N"], Shaped[np.ndarray, "M H W"], Int64[np.ndarray, " M"]]:
    """Training images and classes, then those for tests.

    Args:
        folder: With ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz`` and the same of ``t10k``.

    Raises:
        DataError: If a file is missing or damaged, or images and classes do not go together.
    """
    (train, train_classes), (test, test_classes) = (_part(folder, part) for part in ("train", "t10k"))
    return train, train_classes, test, test_classes


def _part(folder: Path, part: str) -> tuple[Shaped[np.ndarray, "N H W"], Int64[np.ndarray, " N"]]:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    classes = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or classes.shape != images.shape[:1]:
        raise DataError(
            f"images and labels must be (N, H, W) and (N,), got {images.shape} and {classes.shape} in {folder}"
        )
    return images, classes.astype(np.int64)
