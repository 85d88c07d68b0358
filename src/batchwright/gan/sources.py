"""Images to train on, by name or from a folder: read, brought to a size, scaled to [-1, 1], with a part kept apart for scores."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from batchwright.core.errors import DataError, InputError
from batchwright.data.idx_images import read_idx_images
from batchwright.data.image_folder import read_image_folder
from batchwright.data.readers import read_npz_images, resolve_data_root

SIZES = (8, 28, 32, 64)
NAMES = ("digits", "mnist", "fashion", "cifar", "clothing")
# Of a set without a part of its own for tests, every tenth image.
TEST_PART = 10
SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images in [-1, 1].

    Attributes:
        name: Of the data set, or of its folder.
        train: ``(N, C, S, S)``.
        test: Kept apart; scores compare with these.
        train_labels: Classes; None where there are none.
        test_labels: Likewise.
        num_classes: 0 where there are none.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor | None
    test_labels: Tensor | None
    num_classes: int

    @property
    def image_size(self) -> int:
        """Pixels of each side."""
        return int(self.train.shape[-1])

    @property
    def num_channels(self) -> int:
        """1 for grey, 3 for colour."""
        return int(self.train.shape[1])


def load_images(source: str, *, image_size: int | None = None, data_root: Path | None = None) -> ImageSet:
    """Load a data set by name, or a folder of PNG and JPEG files.

    Args:
        source: ``digits`` (scikit-learn's, 8 x 8), ``mnist``, ``fashion`` (28 x 28), ``cifar``, ``clothing`` (32 x 32), or a folder.
        image_size: 8, 28, 32 or 64; the images' own where left out, 32 of a folder. From 28 to 32 the edge is padded with black, as in
            the paper; otherwise images are averaged down or interpolated up.
        data_root: Folder of the data sets, for all but digits and folders.

    Raises:
        DataError: If files are missing or damaged.
        InputError: If ``source`` is neither, or the size is another.
    """
    if image_size is not None and image_size not in SIZES:
        raise InputError(f"image_size must be one of {', '.join(map(str, SIZES))}, got {image_size}")
    if source == "digits":
        found = _digits()
    elif source in ("mnist", "fashion"):
        found = _idx(source, resolve_data_root(data_root) / {"mnist": "mnist", "fashion": "fashion-mnist"}[source])
    elif source == "cifar":
        root = resolve_data_root(data_root) / "cifar10"
        parts = [read_npz_images(root / f"cifar10-{part}.npz") for part in ("train-20k", "test-5k")]
        found = _labelled(source, *parts[0], *parts[1])
    elif source == "clothing":
        path = resolve_data_root(data_root) / "clothing-32" / "clothing-32x32.npz"
        train, more, test = (
            read_npz_images(path, images=f"x_{part}", labels=f"y_{part}") for part in ("train", "validation", "test")
        )
        pixels, classes = (np.concatenate(both) for both in zip(train, more, strict=True))
        found = _labelled(source, pixels, classes, *test)
    elif Path(source).is_dir():
        return _folder(Path(source), 32 if image_size is None else image_size)
    else:
        raise InputError(f"source must be one of {', '.join(NAMES)}, or a folder of images, got {source!r}")
    return found if image_size is None else _resized(found, image_size)


def _digits() -> ImageSet:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.data), generator=torch.Generator().manual_seed(SPLIT_SEED))
    images = torch.tensor(found.data, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 8 - 1
    labels = torch.tensor(found.target)[order]
    num = 1437  # the split of the paper's sheet: 360 are kept apart
    return ImageSet(
        name="digits",
        train=images[:num],
        test=images[num:],
        train_labels=labels[:num],
        test_labels=labels[num:],
        num_classes=10,
    )


def _idx(name: str, folder: Path) -> ImageSet:
    train, train_labels, test, test_labels = read_idx_images(folder)
    return _labelled(name, train[..., None], train_labels, test[..., None], test_labels)


def _labelled(
    name: str, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> ImageSet:
    return ImageSet(
        name=name,
        train=_scaled(train),
        test=_scaled(test),
        train_labels=torch.from_numpy(train_labels),
        test_labels=torch.from_numpy(test_labels),
        num_classes=int(train_labels.max()) + 1,
    )


def _folder(folder: Path, image_size: int) -> ImageSet:
    found = read_image_folder(folder, image_size)
    if len(found.images) < 2 * TEST_PART:
        raise DataError(
            f"a folder of images must hold at least {2 * TEST_PART} of them, got {len(found.images)} in {str(folder)!r}"
        )
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num = len(order) // TEST_PART
    images = _scaled(found.images)[order]
    labels = None if found.labels is None else torch.from_numpy(found.labels)[order]
    return ImageSet(
        name=folder.resolve().name,
        train=images[num:],
        test=images[:num],
        train_labels=None if labels is None else labels[num:],
        test_labels=None if labels is None else labels[:num],
        num_classes=len(found.classes),
    )


def _resized(found: ImageSet, size: int) -> ImageSet:
    if size == found.image_size:
        return found
    return ImageSet(
        name=found.name,
        train=_to_size(found.train, size),
        test=_to_size(found.test, size),
        train_labels=found.train_labels,
        test_labels=found.test_labels,
        num_classes=found.num_classes,
    )


def _to_size(images: Tensor, size: int) -> Tensor:
    own = images.shape[-1]
    if (own, size) == (28, 32):
        return nn.functional.pad(images, (2, 2, 2, 2), value=-1.0)
    if size < own:
        return nn.functional.interpolate(images, size=(size, size), mode="area")
    return nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def _scaled(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).movedim(3, 1).float().div_(127.5).sub_(1.0).contiguous()
