"""Images of the study in the range of tanh: the bundled digits, MNIST, Fashion-MNIST, photographs of clothes, CIFAR-10."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from batchwright.core.errors import DataError
from batchwright.data.idx_images import read_idx_images
from batchwright.data.readers import read_npz_images, resolve_data_root

NUM_TEST_DIGITS = 360


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Images of one kind, for a generator to imitate and a classifier to judge by.

    Attributes:
        images: Training images in [-1, 1].
        labels: Their classes.
        test_images: Images that neither generator nor classifier has seen.
        test_labels: Their classes.
    """

    images: Float[Tensor, "N C S S"]
    labels: Int[Tensor, " N"]
    test_images: Float[Tensor, "M C S S"]
    test_labels: Int[Tensor, " M"]

    @property
    def num_classes(self) -> int:
        """Classes of the labels."""
        return int(self.labels.max()) + 1


def load_problem(data: str, data_root: Path | None) -> Problem:
    """The images of that name, of `PROBLEMS`.

    Raises:
        DataError: If a file is missing or damaged.
    """
    return PROBLEMS[data](data_root)


def digits(data_root: Path | None) -> Problem:
    """1,437 of the bundled digits of 8 x 8 pixels to train on, 360 to test, each class alike; one split for all seeds."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundled = load_digits()
    images = torch.from_numpy(bundled.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(bundled.target).long()
    train, test = (
        torch.from_numpy(part)
        for part in train_test_split(
            np.arange(len(images)), test_size=NUM_TEST_DIGITS, random_state=0, stratify=bundled.target
        )
    )
    return Problem(images=images[train], labels=labels[train], test_images=images[test], test_labels=labels[test])


def mnist(data_root: Path | None) -> Problem:
    """MNIST, 28 x 28 pixels."""
    return _idx("mnist", data_root)


def fashion(data_root: Path | None) -> Problem:
    """Fashion-MNIST, as MNIST."""
    return _idx("fashion-mnist", data_root)


def clothing(data_root: Path | None) -> Problem:
    """3,068 photographs of clothes, 32 x 32 in colour; the parts for validation and test are one test set of 713."""
    path = resolve_data_root(data_root) / "clothing-32" / "clothing-32x32.npz"
    parts = {
        part: read_npz_images(path, images=f"x_{part}", labels=f"y_{part}") for part in ("train", "validation", "test")
    }
    test_images = np.concatenate([parts["validation"][0], parts["test"][0]])
    test_labels = np.concatenate([parts["validation"][1], parts["test"][1]])
    return Problem(
        images=_in_range(parts["train"][0]),
        labels=torch.from_numpy(parts["train"][1]),
        test_images=_in_range(test_images),
        test_labels=torch.from_numpy(test_labels),
    )


def cifar(data_root: Path | None) -> Problem:
    """CIFAR-10, all 50,000 and 10,000 images of it.

    Raises:
        DataError: If the whole set is not there.
    """
    folder = resolve_data_root(data_root) / "cifar10"
    whole = folder / "cifar10-train-50k.npz"
    if not whole.exists():
        raise DataError(f"CIFAR-10 must be whole, as {whole.name} and cifar10-test-10k.npz, got neither in {folder}")
    images, labels = read_npz_images(whole)
    test_images, test_labels = read_npz_images(folder / "cifar10-test-10k.npz")
    return Problem(
        images=_in_range(images),
        labels=torch.from_numpy(labels),
        test_images=_in_range(test_images),
        test_labels=torch.from_numpy(test_labels),
    )


PROBLEMS: Mapping[str, Callable[[Path | None], Problem]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion": fashion,
    "clothing": clothing,
    "cifar": cifar,
}


def _idx(folder: str, data_root: Path | None) -> Problem:
    train, labels, test, test_labels = read_idx_images(resolve_data_root(data_root) / folder)
    return Problem(
        images=_in_range(train[..., None]),
        labels=torch.from_numpy(labels),
        test_images=_in_range(test[..., None]),
        test_labels=torch.from_numpy(test_labels),
    )


def _in_range(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).movedim(3, 1).float() / 127.5 - 1
