"""One run of the study: a network with one norm, trained and tested.

Source: official code: SGD with momentum 0.9, batches of 128 whatever the ghosts, weight decay 2e-4 on all parameters.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from batchwright.studies.kalman_norm.arms import ARMS, with_norm
from batchwright.studies.kalman_norm.probe import Probe
from batchwright.studies.kalman_norm.problems import Problem, crop_and_flip, load_problem
from batchwright.studies.state_files import load_state, restore_training, save_state, training_state
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

BATCH_SIZE = 128
MOMENTUM = 0.9
WEIGHT_DECAY = 2e-4


def run_arm(
    place: Place,
    *,
    arm: str,
    data: str,
    num_blocks: int,
    num_train: int,
    lr: float,
    num_epochs: int,
    milestones: Sequence[int],
    seed: int,
    part: int = 0,
    part_epochs: int = 0,
    probed: bool = False,
) -> Mapping[str, Any]:
    """Train a network, or one part of its epochs, and test it.

    Args:
        place: Where to compute.
        arm: Name of the norm.
        data: ``digits`` or ``cifar``.
        num_blocks: Blocks in a stage, for CIFAR-10.
        num_train: Training images.
        lr: Before the first milestone; a tenth of it after each.
        num_epochs: In all.
        milestones: Epochs after which the learning rate falls.
        seed: Of weights, orders and samples; the same seed begins with the same weights for every arm.
        part: Number of this part.
        part_epochs: Epochs in a part; 0 for all in one.
        probed: Whether the statistics are measured in the last epoch.

    Returns:
        ``accuracy`` in percent on the test images, ``loss``, the mean training loss of the last epoch, ``curve``, the accuracy after
        each epoch of this part where there is more than one part, and what the probe found.

    Raises:
        RecordError: If the state of the part before is missing.
    """
    problem = load_problem(data, num_blocks, num_train, place.data_root, place.device)
    model = problem.make(stream(seed, "kalman-norm", data, num_blocks, "init"))
    names = ("kalman-norm", data, num_blocks, arm, lr, num_epochs)
    drawn = torch.Generator(place.device)
    drawn.manual_seed(stream(seed, *(str(name) for name in names), "fields", part).initial_seed())
    model = with_norm(model.to(place.device), arm, drawn, problem.inputs[:2])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    stem = "-".join(str(name) for name in (data, num_blocks, arm, f"{lr:g}", num_epochs, seed))
    first = part * part_epochs
    last = min(num_epochs, first + part_epochs) if part_epochs else num_epochs
    if part:
        restore_training(model, optimizer, load_state(place, f"{stem}-part-{part - 1:02d}"))
    loss, curve, found = math.nan, [], {}
    ghost_size = int(ARMS[arm].options.get("ghost_size") or BATCH_SIZE)
    for epoch in range(first, last):
        rate = lr * 0.1 ** sum(epoch >= milestone for milestone in milestones)
        for group in optimizer.param_groups:
            group["lr"] = rate
        probe = Probe(model, ghost_size) if probed and epoch == last - 1 else None
        # The order is a function of the seed and the epoch, so that it is the same for every arm and in any part.
        loss = train_epoch(model, optimizer, problem, stream(seed, "kalman-norm", data, "order", epoch))
        if probe is not None:
            found = dict(probe.close())
        if part_epochs:
            curve.append(accuracy(model, problem) if math.isfinite(loss) else math.nan)
    if part_epochs and last < num_epochs:
        save_state(place, f"{stem}-part-{part:02d}", training_state(model, optimizer))
    return {
        "accuracy": accuracy(model, problem) if math.isfinite(loss) else math.nan,
        "loss": loss,
        "curve": curve,
        **found,
        "num_gradients": float((last - first) * (len(problem.inputs) // BATCH_SIZE) * BATCH_SIZE),
    }


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, problem: Problem, generator: torch.Generator
) -> float:
    """One pass over the training images in whole batches; the mean loss."""
    model.train()
    order = torch.randperm(len(problem.inputs), generator=generator).to(problem.inputs.device)
    num_batches = len(order) // BATCH_SIZE
    total = torch.zeros((), device=problem.inputs.device)
    for batch in order[: num_batches * BATCH_SIZE].split(BATCH_SIZE):
        images = problem.inputs[batch]
        if problem.augmented:
            images = crop_and_flip(images, generator)
        loss = functional.cross_entropy(model(images), problem.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total) / num_batches


@torch.no_grad()
def accuracy(model: nn.Module, problem: Problem) -> float:
    """Percent of the test images that are classified right, in evaluation mode."""
    model.eval()
    right = sum(
        int((model(images).argmax(1) == labels).sum())
        for images, labels in zip(problem.test_inputs.split(500), problem.test_labels.split(500), strict=True)
    )
    return 100.0 * right / len(problem.test_labels)
