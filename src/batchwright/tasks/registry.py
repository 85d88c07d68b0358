"""The built-in tasks by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchwright.tasks.char_gpt import char_gpt
from batchwright.tasks.digits import digits_cnn, digits_mlp
from batchwright.tasks.images import cifar_resnet, fashion_cnn, mnist_cnn
from batchwright.tasks.noisy_quadratic import noisy_quadratic
from batchwright.tasks.task import Task
from batchwright.tasks.uci import TABLES, uci_mlp


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A built-in task.

    Attributes:
        name: Its name on the command line.
        description: One line.
        needs_data: Whether it reads files under the data root.
        make: ``make(data_root, variant)`` gives the task; either may be None.
        variants: What may stand after a colon, ``name:variant``; empty where there is nothing to choose.
    """

    name: str
    description: str
    needs_data: bool
    make: Callable[[Path | None, str | None], Task]
    variants: tuple[str, ...] = ()


def _cifar_resnet(data_root: Path | None, variant: str | None) -> Task:
    depth, _, norm = (variant or "8").partition("-")
    return cifar_resnet(data_root, depth=int(depth), norm=norm or "batch")


_ENTRIES = (
    Entry(
        name="char-gpt",
        description="two-layer GPT on characters; Python source text, or tiny Shakespeare with a data root",
        needs_data=False,
        make=lambda data_root, variant: char_gpt(data_root, size=variant or "default"),
        variants=("small",),
    ),
    Entry(
        name="cifar-resnet",
        description="ResNet-8 or -20 with batch normalization on 20,000 images of CIFAR-10",
        needs_data=True,
        make=_cifar_resnet,
        variants=("8", "8-group", "20", "20-group"),
    ),
    Entry(
        name="digits-cnn",
        description="small convolutional network on the 8 x 8 digits bundled with scikit-learn",
        needs_data=False,
        make=lambda data_root, variant: digits_cnn(),
    ),
    Entry(
        name="digits-mlp",
        description="two-layer perceptron on the 8 x 8 digits bundled with scikit-learn",
        needs_data=False,
        make=lambda data_root, variant: digits_mlp(),
    ),
    Entry(
        name="fashion-cnn",
        description="LeNet without normalization on Fashion-MNIST",
        needs_data=True,
        make=lambda data_root, variant: fashion_cnn(data_root),
    ),
    Entry(
        name="mnist-cnn",
        description="LeNet without normalization on MNIST",
        needs_data=True,
        make=lambda data_root, variant: mnist_cnn(data_root),
    ),
    Entry(
        name="noisy-quadratic",
        description="quadratic with known noise scale, Hessian and optimum",
        needs_data=False,
        make=lambda data_root, variant: noisy_quadratic(),
    ),
    Entry(
        name="uci-mlp",
        description="three-layer perceptron on a table of UCI, power-plant unless another is named",
        needs_data=True,
        make=lambda data_root, variant: uci_mlp(data_root, table=variant or "power-plant"),
        variants=tuple(TABLES),
    ),
)

REGISTRY: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}
