"""A few steps from the start at a batch size and learning rate: does the loss stay where it began, or fly away?"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from batchwright.core.preserve import RandomState
from batchwright.data.samplers import EpochSampler
from batchwright.measure.snapshot import train_steps
from batchwright.optim.build import build_optimizer
from batchwright.tasks.task import Task

NUM_STEPS = 12
# Momentum makes a good run overshoot its first loss for a step or two; one that ends above it by this factor is lost.
OVERSHOOT = 1.25


@dataclass(frozen=True, kw_only=True, slots=True)
class LrTrial:
    """A short run from the start.

    Attributes:
        stable: Whether every loss was finite and the last third did not end above the first loss by more than a quarter.
        losses: Mean loss of each step, up to the first that was not finite.
        num_examples: Examples trained on.
    """

    stable: bool
    losses: tuple[float, ...]
    num_examples: int

    @property
    def rise(self) -> float:
        """Largest loss over the first one: how far the loss went up on its way; ``inf`` where it was lost."""
        if not math.isfinite(self.losses[-1]):
            return math.inf
        return max(self.losses) / self.losses[0] if self.losses[0] > 0 else 1.0

    @property
    def came_back(self) -> bool:
        """Whether the loss rose well above its first value on the way, and was below that bound again at the end."""
        return self.stable and self.rise > OVERSHOOT


def lr_trial(
    task: Task,
    batch_size: int,
    lr: float,
    *,
    micro_batch_size: int | None = None,
    num_steps: int = NUM_STEPS,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LrTrial:
    """Train a fresh model for ``num_steps`` and say whether the loss flew away.

    It tells instability from the start, not the edge of it: a learning rate that passes may still be too large later.

    Args:
        task: The training job; its other optimizer settings are kept.
        batch_size: Examples in a step.
        lr: Learning rate to try.
        micro_batch_size: Most examples in one forward pass.
        num_steps: Optimizer steps.
        seed: Of the model and the data order.
        device: Where to train.
    """
    random_state = RandomState.capture()
    losses: list[float] = []

    def after_step(_: int, mean: Tensor) -> None:
        losses.append(float(mean))

    try:
        torch.manual_seed(seed)
        model = task.make_model(seed, device)
        optimizer = build_optimizer(replace(task.optimizer, lr=lr), model)
        sampler = EpochSampler(task.num_train, seed)
        for _ in range(num_steps):
            train_steps(
                task,
                model,
                optimizer,
                sampler,
                batch_size=batch_size,
                num_steps=1,
                micro_batch_size=micro_batch_size,
                after_step=after_step,
            )
            if not math.isfinite(losses[-1]):
                break
    finally:
        random_state.restore()
    last = float(np.mean(losses[-max(1, num_steps // 3) :]))
    return LrTrial(
        stable=math.isfinite(losses[-1]) and last <= OVERSHOOT * max(losses[0], 0.0),
        losses=tuple(losses),
        num_examples=len(losses) * batch_size,
    )
