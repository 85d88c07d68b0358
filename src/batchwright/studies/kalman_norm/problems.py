"""Data of the study: the bundled digits, and CIFAR-10 as the official code prepares it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from batchwright.core.errors import DataError
from batchwright.data.readers import read_npz_images, resolve_data_root
from batchwright.studies.kalman_norm.network import PreActResNet
from batchwright.studies.streams import stream

NUM_DIGITS = 1280
PADDING = 4
SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A classification problem on one device, with its network.

    Attributes:
        inputs: Training images.
        labels: Their classes.
        test_inputs: Test images.
        test_labels: Their classes.
        make: The network with batch norm, from a generator of its weights.
        augmented: Whether training images are cropped and flipped at random.
    """

    inputs: Float[Tensor, "N C H W"]
    labels: Int[Tensor, " N"]
    test_inputs: Float[Tensor, "M C H W"]
    test_labels: Int[Tensor, " M"]
    make: Callable[[torch.Generator], nn.Module]
    augmented: bool = False


def load_problem(data: str, num_blocks: int, num_train: int, data_root: Path | None, device: torch.device) -> Problem:
    """``digits`` or ``cifar``."""
    return digits(device, num_train) if data == "digits" else cifar(num_blocks, num_train, data_root, device)


def digits(device: torch.device, num_train: int = NUM_DIGITS) -> Problem:
    """1,280 of the bundled digits of 8 x 8 pixels for training, or fewer, the other 517 for testing, and a network of two blocks.

    The split is one for all seeds; one mean and deviation for all pixels, of the training images.
    """
    from sklearn.datasets import load_digits

    bundled = load_digits()
    images = torch.from_numpy(bundled.images).float()[:, None]
    classes = torch.from_numpy(bundled.target).long()
    order = torch.randperm(len(images), generator=stream(SPLIT_SEED, "kalman-norm", "digits"))
    train, test = order[:NUM_DIGITS], order[NUM_DIGITS:]
    std, mean = torch.std_mean(images[train])
    train = train[:num_train]
    images = ((images - mean) / std).to(device)
    classes = classes.to(device)

    def make(generator: torch.Generator) -> nn.Module:
        return PreActResNet(in_channels=1, widths=(16, 32), num_blocks=1, generator=generator)

    return Problem(
        inputs=images[train],
        labels=classes[train],
        test_inputs=images[test],
        test_labels=classes[test],
        make=make,
    )


def cifar(num_blocks: int, num_train: int, data_root: Path | None, device: torch.device) -> Problem:
    """The first ``num_train`` images of CIFAR-10, over 128 and less the mean of each pixel, and the network of ``6 n + 2`` layers.

    Raises:
        DataError: If the files of ``cifar10/`` are not under the data root, or hold fewer images.
    """
    folder = resolve_data_root(data_root) / "cifar10"
    whole = (folder / "cifar10-train-50k.npz").exists()
    train_images, train_classes = read_npz_images(folder / f"cifar10-train-{'50k' if whole else '20k'}.npz")
    test_images, test_classes = read_npz_images(folder / f"cifar10-test-{'10k' if whole else '5k'}.npz")
    if len(train_images) < num_train:
        raise DataError(
            f"CIFAR-10 must have at least {num_train} training images, got {len(train_images)} in {folder}; put the whole set there "
            "as cifar10-train-50k.npz and cifar10-test-10k.npz"
        )
    inputs = torch.from_numpy(train_images[:num_train]).movedim(3, 1).float() / 128.0
    test_inputs = torch.from_numpy(test_images).movedim(3, 1).float() / 128.0
    mean = inputs.mean(0)

    def make(generator: torch.Generator) -> nn.Module:
        return PreActResNet(in_channels=3, widths=(16, 32, 64), num_blocks=num_blocks, generator=generator)

    return Problem(
        inputs=(inputs - mean).contiguous().to(device),
        labels=torch.from_numpy(train_classes[:num_train]).to(device),
        test_inputs=(test_inputs - mean).contiguous().to(device),
        test_labels=torch.from_numpy(test_classes).to(device),
        make=make,
        augmented=True,
    )


def crop_and_flip(images: Float[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "B C H W"]:
    """A random window of each image padded by four pixels, and a random mirror image."""
    size, side = images.shape[0], images.shape[-1]
    down, right = torch.randint(0, 2 * PADDING + 1, (2, size), generator=generator).to(images.device)
    flipped = (torch.rand(size, generator=generator) < 0.5).to(images.device)
    padded = functional.pad(images, (PADDING,) * 4)
    steps = torch.arange(side, device=images.device)
    rows = (down[:, None] + steps)[:, None, :, None]
    columns = right[:, None] + torch.where(flipped[:, None], steps.flip(0), steps)
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    examples = torch.arange(size, device=images.device)[:, None, None, None]
    return padded[examples, channels, rows, columns[:, None, None, :]]
