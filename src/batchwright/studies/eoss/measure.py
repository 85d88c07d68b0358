"""Batch sharpness and sharpness of a network on the problem, with the batches that the study draws for them."""

from collections.abc import Mapping

import torch
from torch import nn

from batchwright.measure.curvature import batch_sharpness, interaction_aware_sharpness, sharpness, step_sharpness
from batchwright.studies.eoss.batches import draw
from batchwright.studies.eoss.problem import Problem, squared_error

NUM_BATCHES = 100
# The official code's rule; with 100 batches it is met at large batch alone.
RELATIVE_ERROR = 0.005
# The full Hessian's part is small at small batch, so more pairs are needed for it.
MEAN_CURVATURE_FACTOR = 4


def measure_batch_sharpness(
    model: nn.Module, problem: Problem, batch_size: int, generator: torch.Generator, num_batches: int = NUM_BATCHES
) -> Mapping[str, float]:
    """Mean over fresh batches of the training batch size; at full batch one deterministic number without an error."""
    if batch_size >= problem.num_train:
        value = step_sharpness(model, squared_error, (problem.inputs, problem.targets))
        return {"value": value, "standard_error": 0.0, "num_batches": 1}
    drawn = draw(problem.num_train, batch_size, generator, num_batches)
    batches = ((problem.inputs[batch], problem.targets[batch]) for batch in drawn)
    found = batch_sharpness(model, squared_error, batches, relative_error=RELATIVE_ERROR, max_batches=num_batches)
    return {"value": found.value, "standard_error": found.standard_error, "num_batches": found.num_batches}


def measure_sharpness(model: nn.Module, problem: Problem) -> float:
    """Largest Hessian eigenvalue of the whole training loss."""
    return sharpness(model, squared_error, (problem.inputs, problem.targets)).value


def measure_mean_curvature(
    model: nn.Module, problem: Problem, batch_size: int, generator: torch.Generator, num_batches: int
) -> float:
    """Interaction-aware sharpness: the full Hessian's curvature along gradients of batches, from pairs of batches."""
    drawn = draw(problem.num_train, batch_size, generator, MEAN_CURVATURE_FACTOR * num_batches)
    batches = ((problem.inputs[batch], problem.targets[batch]) for batch in drawn)
    found = interaction_aware_sharpness(
        model, squared_error, batches, relative_error=RELATIVE_ERROR, max_batches=len(drawn)
    )
    return found.value
