"""The loss and the metrics of a task over its evaluation set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from batchwright.core.batches import batch_length, to_device
from batchwright.core.errors import TaskError
from batchwright.core.objectives import example_losses
from batchwright.core.vectors import trainable
from batchwright.data.access import batches_of
from batchwright.tasks.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Means over the evaluation set.

    Attributes:
        values: ``loss`` and every metric of the task; mean over the examples.
        standard_errors: Of each mean, from the scatter over examples.
        num_examples: Examples evaluated.
    """

    values: Mapping[str, float]
    standard_errors: Mapping[str, float]
    num_examples: int


def evaluate(task: Task, model: nn.Module) -> Evaluation:
    """Evaluate in eval mode and without gradients; mode comes back, and no random number is drawn by it.

    Returns:
        The means with their standard errors.

    Raises:
        TaskError: If a metric is not one number an example.
    """
    device = trainable(model)[0].device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    found: dict[str, list[Tensor]] = {"loss": [], **{name: [] for name in task.metrics}}
    try:
        with torch.no_grad():
            for batch in batches_of(
                task.evaluation if task.evaluation is not None else task.train, task.evaluation_batch_size
            ):
                on_device = to_device(batch, device)
                found["loss"].append(example_losses(model, task.loss, on_device).double())
                for name, metric in task.metrics.items():
                    values = metric(model, on_device)
                    if not isinstance(values, Tensor):
                        raise TaskError(
                            f"metric {name!r} must return a tensor of one value an example, got {type(values).__name__}"
                        )
                    if values.shape != (batch_length(on_device),):
                        raise TaskError(
                            f"metric {name!r} must return one value an example, shape ({batch_length(on_device)},), "
                            f"got {tuple(values.shape)}"
                        )
                    found[name].append(values.double())
    finally:
        for module, training in modes:
            module.training = training
    columns = {name: torch.cat(parts) for name, parts in found.items()}
    length = len(columns["loss"])
    return Evaluation(
        values={name: float(column.mean()) for name, column in columns.items()},
        standard_errors={
            name: float(column.std()) / math.sqrt(length) if length > 1 else math.inf
            for name, column in columns.items()
        },
        num_examples=length,
    )
