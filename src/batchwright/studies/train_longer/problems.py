"""Data and networks of the study: the bundled digits, MNIST and CIFAR-10.

Source: the official code for the networks (F1: five hidden layers of 512 with batch norm before ReLU; ResNet-44) and the augmentation
of CIFAR-10 (four pixels of padding, a random crop, a flip).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from batchwright.core.errors import DataError
from batchwright.core.preserve import RandomState
from batchwright.data.idx_images import read_idx_images
from batchwright.data.readers import read_npz_images, resolve_data_root
from batchwright.nn import GhostBatchNorm1d, GhostBatchNorm2d
from batchwright.studies.streams import stream
from batchwright.tasks.resnet import ResNet

NUM_TEST = 500
PADDING = 4
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A classification problem on one device.

    Attributes:
        inputs: Training inputs.
        labels: Training labels, wrong ones included.
        test_inputs: Test inputs.
        test_labels: Test labels.
        augment: Changes a batch of training inputs at random; None for none.
    """

    inputs: Float[Tensor, "N ..."]
    labels: Int[Tensor, " N"]
    test_inputs: Float[Tensor, "M ..."]
    test_labels: Int[Tensor, " M"]
    augment: Augment | None = None

    @property
    def num_train(self) -> int:
        """Training examples ``N``."""
        return len(self.inputs)


def digits(num_train: int, label_noise: float, seed: int) -> Problem:
    """Bundled digits cut at random into training and 500 test images; the share ``label_noise`` of the training labels is drawn anew.

    A label that is drawn anew may come out right, so a tenth of them is.
    """
    from sklearn.datasets import load_digits

    bundled = load_digits()
    images = torch.from_numpy(bundled.images).float().flatten(1)
    classes = torch.from_numpy(bundled.target).long()
    generator = stream(seed, "train-longer", "digits", num_train)
    order = torch.randperm(len(images), generator=generator)
    train, test = order[:num_train], order[num_train : num_train + NUM_TEST]
    std, mean = torch.std_mean(images[train])
    inputs = (images - mean) / std
    noisy = torch.rand(num_train, generator=generator) < label_noise
    drawn = torch.randint(0, 10, (num_train,), generator=generator)
    return Problem(
        inputs=inputs[train],
        labels=torch.where(noisy, drawn, classes[train]),
        test_inputs=inputs[test],
        test_labels=classes[test],
    )


def mnist(data_root: Path | None, num_train: int, device: torch.device) -> Problem:
    """The first ``num_train`` images of MNIST and all test images, as rows of 784 pixels.

    Raises:
        DataError: If the files of ``mnist/`` are not under the data root.
    """
    train, classes, test, test_classes = read_idx_images(resolve_data_root(data_root) / "mnist")
    inputs, test_inputs = (torch.from_numpy(images).float().flatten(1) for images in (train[:num_train], test))
    std, mean = torch.std_mean(inputs)
    return Problem(
        inputs=((inputs - mean) / std).to(device),
        labels=torch.from_numpy(classes[:num_train]).to(device),
        test_inputs=((test_inputs - mean) / std).to(device),
        test_labels=torch.from_numpy(test_classes).to(device),
    )


def cifar(data_root: Path | None, num_train: int, device: torch.device) -> Problem:
    """CIFAR-10 with random crops and flips: the first ``num_train`` images of the largest training file that is there.

    Raises:
        DataError: If there are no files of CIFAR-10 under the data root, or they hold fewer images.
    """
    folder = resolve_data_root(data_root) / "cifar10"
    whole = (folder / "cifar10-train-50k.npz").exists()
    parts = []
    for part in ("train-50k", "test-10k") if whole else ("train-20k", "test-5k"):
        images, classes = read_npz_images(folder / f"cifar10-{part}.npz")
        parts.append((torch.from_numpy(images).movedim(3, 1).float() / 255.0, torch.from_numpy(classes)))
    (inputs, labels), (test_inputs, test_labels) = parts
    if num_train > len(inputs):
        raise DataError(
            f"CIFAR-10 must have at least {num_train} training images, got {len(inputs)} in {folder}; put the whole set there as "
            "cifar10-train-50k.npz and cifar10-test-10k.npz"
        )
    std, mean = torch.std_mean(inputs, dim=(0, 2, 3), keepdim=True)
    return Problem(
        inputs=((inputs[:num_train] - mean) / std).contiguous().to(device),
        labels=labels[:num_train].to(device),
        test_inputs=((test_inputs - mean) / std).contiguous().to(device),
        test_labels=test_labels.to(device),
        augment=crop_and_flip,
    )


def crop_and_flip(images: Float[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "B C H W"]:
    """Each image shifted by up to four pixels with zeros coming in, and mirrored with probability one half."""
    size, width = len(images), images.shape[3]
    shifts = torch.randint(0, 2 * PADDING + 1, (2, size), generator=generator)
    flips = torch.rand(size, generator=generator) < 0.5
    columns = torch.arange(width).expand(size, width)
    columns = torch.where(flips[:, None], width - 1 - columns, columns) + shifts[1][:, None]
    rows = torch.arange(images.shape[2])[None] + shifts[0][:, None]
    padded = functional.pad(images, (PADDING,) * 4)
    number = torch.arange(size, device=images.device)[:, None, None]
    rows, columns = rows.to(images.device)[:, :, None], columns.to(images.device)[:, None, :]
    return padded.movedim(1, 3)[number, rows, columns].movedim(3, 1).contiguous()


def make_network(name: str, seed: int, *, ghost_size: int | None) -> nn.Module:
    """A network from a seed; the same weights with and without ghosts.

    Args:
        name: ``digits-mlp`` (64-128x4-10), ``f1`` (784-512x5-10) or ``resnet-DEPTH``.
        seed: Of the weights.
        ghost_size: Examples of a ghost; None for plain batch norm.
    """
    before = RandomState.capture()
    try:
        torch.manual_seed(seed)
        if name == "digits-mlp":
            return _perceptron((64, *([128] * 4), 10), ghost_size)
        if name == "f1":
            return _perceptron((784, *([512] * 5), 10), ghost_size)
        network = ResNet(depth=int(name.removeprefix("resnet-")))
    finally:
        before.restore()
    return network if ghost_size is None else _with_ghosts(network, ghost_size)


def _perceptron(sizes: tuple[int, ...], ghost_size: int | None) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        norm = nn.BatchNorm1d(after) if ghost_size is None else GhostBatchNorm1d(after, ghost_size=ghost_size)
        parts += [nn.Linear(before, after), norm, nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(sizes[-2], sizes[-1]))


def _with_ghosts(network: nn.Module, ghost_size: int) -> nn.Module:
    """The network with every batch norm over images exchanged for a ghost one; fresh norms have no weights to keep."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, GhostBatchNorm2d(child.num_features, ghost_size=ghost_size))
    return network
