"""What the classification tasks share: cross-entropy and accuracy, one value an example, and a stratified split."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from batchwright.core.batches import Batch


def cross_entropy(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """Cross-entropy of each example in nats, for a batch ``(inputs, classes)`` and a model that gives logits ``(B, C)``."""
    inputs, classes = batch
    losses: Tensor = functional.cross_entropy(model(inputs), classes, reduction="none")
    return losses


def accuracy(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """1 where the largest logit is that of the right class, 0 elsewhere."""
    inputs, classes = batch
    right: Tensor = model(inputs).argmax(dim=1) == classes
    return right.float()


def stratified_split(
    classes: Int[Tensor, " N"], every: int, generator: torch.Generator
) -> tuple[Int[Tensor, " M"], Int[Tensor, " K"]]:
    """Indices for training and evaluation in random order; of each class one in ``every``, to within one, is held out."""
    order = torch.randperm(len(classes), generator=generator)
    held_out = torch.zeros(len(classes), dtype=torch.bool)
    held_out[order[torch.argsort(classes[order], stable=True)][::every]] = True
    return order[~held_out[order]], order[held_out[order]]
