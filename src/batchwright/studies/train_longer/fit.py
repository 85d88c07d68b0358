"""Training one network as the official code does: SGD with momentum, clipping, and a learning rate that falls in phases."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from batchwright.studies.train_longer.arms import MAX_GRAD_NORM, MILESTONES, MOMENTUM, Arm
from batchwright.studies.train_longer.problems import Problem
from batchwright.training.gradient_noise import noise_weights

EVALUATION_BATCH_SIZE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What the arms of one table share.

    Attributes:
        small: Small batch size, which is the size of the ghosts too.
        large: Large batch size.
        lr: Learning rate of the small batch.
        epochs: Of the small batch.
        weight_decay: As in `torch.optim`.
    """

    small: int
    large: int
    lr: float
    epochs: int
    weight_decay: float

    def batch_size(self, arm: Arm) -> int:
        """Examples of a step."""
        return self.large if arm.large else self.small

    def first_lr(self, arm: Arm) -> float:
        """Learning rate of the first phase."""
        return self.lr * math.sqrt(self.large / self.small) if arm.scaled else self.lr

    def num_updates(self, arm: Arm, num_train: int) -> int:
        """Updates of a run: those of the small batch's epochs for it and for arms that train longer."""
        size = self.small if arm.longer else self.batch_size(arm)
        return self.epochs * math.ceil(num_train / size)


def fit(
    network: nn.Module,
    problem: Problem,
    *,
    batch_size: int,
    lr: float,
    num_updates: int,
    weight_decay: float,
    generator: torch.Generator,
    milestones: tuple[float, ...] = MILESTONES,
    max_grad_norm: float | None = MAX_GRAD_NORM,
    noise: str = "",
    noise_like: int | None = None,
    after_update: Callable[[int], object] = lambda update: None,
) -> None:
    """Train in place. An epoch's last batch is as short as it comes, and its examples count as all others do.

    Args:
        network: In training mode, on the problem's device.
        problem: What to train on.
        batch_size: Examples of an update.
        lr: Of the first phase.
        num_updates: Optimizer steps.
        weight_decay: As in `torch.optim`.
        generator: Of batches, augmentation and noise, on the CPU.
        milestones: Shares of the updates at which the learning rate is divided by ten.
        max_grad_norm: None for no clipping.
        noise: Kind of `training.gradient_noise`; empty for none.
        noise_like: The batch size whose covariance the noise is to give.
        after_update: Called with the number of updates done.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=weight_decay)
    boundaries = {round(share * num_updates) for share in milestones}
    done = 0
    while done < num_updates:
        order = torch.randperm(problem.num_train, generator=generator)
        for batch in order[: batch_size * (num_updates - done)].split(batch_size):
            if done in boundaries:
                for group in optimizer.param_groups:
                    group["lr"] /= 10
            inputs, labels = problem.inputs[batch], problem.labels[batch]
            if problem.augment is not None:
                inputs = problem.augment(inputs, generator)
            losses = functional.cross_entropy(network(inputs), labels, reduction="none")
            if noise and noise_like is not None and len(batch) > noise_like:
                losses = losses * noise_weights(len(batch), noise_like, generator=generator, kind=noise).to(losses)
            optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()
            if max_grad_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
            optimizer.step()
            done += 1
            after_update(done)


def accuracy(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Per cent of right answers with running statistics; the mode of the network is left as it was."""
    was = network.training
    network.eval()
    with torch.no_grad():
        right = sum(
            int((network(part).argmax(1) == classes).sum())
            for part, classes in zip(
                inputs.split(EVALUATION_BATCH_SIZE), labels.split(EVALUATION_BATCH_SIZE), strict=True
            )
        )
    network.train(was)
    return 100.0 * right / len(labels)
