"""A model with its optimizer at one instant of training, from which measurements can train on without touching it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.batches import to_device
from batchwright.core.objectives import accumulate_gradient
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.optim.build import build_optimizer
from batchwright.tasks.task import OptimizerSpec, Task


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """State of a training run.

    Attributes:
        model_state: As of ``model.state_dict()``, copied.
        optimizer_state: As of ``optimizer.state_dict()``, copied.
        num_steps: Optimizer steps done.
        num_examples: Training examples used.
    """

    model_state: dict[str, Tensor]
    optimizer_state: dict[str, Any]
    num_steps: int = 0
    num_examples: int = 0

    @classmethod
    def take(
        cls, model: nn.Module, optimizer: torch.optim.Optimizer, *, num_steps: int = 0, num_examples: int = 0
    ) -> "Snapshot":
        """Copy the state of a model and its optimizer."""
        return cls(
            model_state={name: value.detach().clone() for name, value in model.state_dict().items()},
            optimizer_state=copy.deepcopy(optimizer.state_dict()),
            num_steps=num_steps,
            num_examples=num_examples,
        )

    def restore(
        self, task: Task, spec: OptimizerSpec, device: torch.device | str
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A model and an optimizer of their own in this state; ``spec`` gives the optimizer's settings."""
        model = task.make_model(0, device)
        model.load_state_dict(self.model_state)
        optimizer = build_optimizer(spec, model)
        settings = copy.deepcopy(optimizer.state_dict()["param_groups"])
        optimizer.load_state_dict(copy.deepcopy(self.optimizer_state))
        # Loading brings the old settings along with the moments; the new ones are what is to be tried.
        for group, wanted in zip(optimizer.param_groups, settings, strict=True):
            group.update({name: value for name, value in wanted.items() if name != "params"})
        return model, optimizer


def train_steps(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sampler: EpochSampler,
    *,
    batch_size: int,
    num_steps: int,
    micro_batch_size: int | None = None,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> None:
    """Plain optimizer steps: the yardstick of all costs. ``after_step`` gets the step and its mean loss."""
    device = next(model.parameters()).device
    for step in range(num_steps):
        batch = to_device(fetch(task.train, sampler.take(batch_size)), device)
        optimizer.zero_grad(set_to_none=True)
        mean = accumulate_gradient(model, task.loss, batch, micro_batch_size=micro_batch_size)
        optimizer.step()
        if after_step is not None:
            after_step(step, mean)
