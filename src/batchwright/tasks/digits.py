"""Handwritten digits of 8 x 8 pixels, bundled with scikit-learn: two small tasks that need no download.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998); the test
part, 1,797 images, as `sklearn.datasets.load_digits` gives it.
"""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.tasks.classification import accuracy, cross_entropy, stratified_split
from batchwright.tasks.task import OptimizerSpec, Target, Task

SPLIT_SEED = 0


def digits_mlp() -> Task:
    """A perceptron 64-128-10 on the digits; 9,610 parameters, a step takes a fraction of a millisecond."""
    train, evaluation = _digits(flat=True)
    return Task(
        name="digits-mlp",
        model=lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        loss=cross_entropy,
        train=train,
        evaluation=evaluation,
        # Examples to an evaluation loss of 0.15 at lr 0.05, 0.1 (two seeds each): 1,540-2,140, 1,730-2,270; 0.05 also holds
        # at batch 16.
        optimizer=OptimizerSpec(name="sgd", lr=0.05, momentum=0.9),
        target=Target(value=0.15),
        metrics={"accuracy": accuracy},
        max_examples=50 * len(train),
        description="8 x 8 digits bundled with scikit-learn, two-layer perceptron",
    )


def digits_cnn() -> Task:
    """Two convolutions and a linear layer on the digits; 9,930 parameters.

    There is no normalization over the batch, so the gradient of each example is defined on its own.
    """
    train, evaluation = _digits(flat=False)
    return Task(
        name="digits-cnn",
        model=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        ),
        loss=cross_entropy,
        train=train,
        evaluation=evaluation,
        # Of lr 0.025, 0.05, 0.1 at batch 32, 0.05 took the fewest examples to an evaluation loss of 0.10; 0.1 did not reach it.
        optimizer=OptimizerSpec(name="sgd", lr=0.05, momentum=0.9),
        target=Target(value=0.15),
        metrics={"accuracy": accuracy},
        max_examples=50 * len(train),
        description="8 x 8 digits bundled with scikit-learn, small convolutional network",
    )


def _digits(*, flat: bool) -> tuple[TensorDataset, TensorDataset]:
    # Imported here: scikit-learn takes a second to import, and only these two tasks need it.
    from sklearn.datasets import load_digits

    bundled = load_digits()
    images = torch.from_numpy(bundled.images).float() / 16.0
    classes = torch.from_numpy(bundled.target).long()
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    train, evaluation = stratified_split(classes, every=5, generator=generator)
    # One mean and deviation for all pixels: many border pixels never vary, so they have no deviation of their own.
    images = (images - images[train].mean()) / images[train].std()
    images = images.flatten(1) if flat else images[:, None]
    return TensorDataset(images[train], classes[train]), TensorDataset(images[evaluation], classes[evaluation])
