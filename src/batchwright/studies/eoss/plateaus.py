"""Plateaus of batch sharpness: a network trained at each momentum and batch size, measured along the way.

One cell is one batch size and one seed; the optimizers ride in one ensemble, begin from the same weights and see the same batches.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from batchwright.studies.eoss.batches import batch_stream
from batchwright.studies.eoss.ensemble import Ensemble, from_models, full_losses, to_model, train_steps
from batchwright.studies.eoss.measure import measure_batch_sharpness, measure_sharpness
from batchwright.studies.eoss.problem import Problem, digits_problem, perceptron
from batchwright.studies.eoss.settings import WARMUP_STEPS, Setting
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

# (momentum, Nesterov), in the order of the published table.
OPTIMIZERS = ((0.0, False), (0.5, False), (0.8, False), (0.5, True), (0.8, True))


def start_ensemble(settings: Sequence[Setting], seed: int) -> Ensemble:
    """One network a setting, all from the weights of ``seed``."""
    return from_models([perceptron(stream(seed, "eoss", "init")) for _ in settings])


def run_plateau(
    place: Place,
    *,
    lr: float,
    optimizers: Sequence[Sequence[Any]],
    batch_size: int,
    num_steps: int,
    num_points: int,
    num_batches: int,
    seed: int,
    num_train: int,
) -> Mapping[str, Any]:
    """Train every optimizer from the same start and measure batch sharpness at ``num_points`` evenly spaced steps.

    Returns:
        ``series``: for each optimizer its steps, batch sharpness with standard errors, full training losses, and the largest Hessian
        eigenvalue at the end; NaN from where a run diverged.
    """
    problem = digits_problem(num_train)
    size = min(batch_size, problem.num_train)
    settings = [
        Setting(lr=lr, momentum=momentum, batch_size=size, nesterov=nesterov) for momentum, nesterov in optimizers
    ]
    ensemble = start_ensemble(settings, seed)
    batches = batch_stream(problem.num_train, size, [stream(seed, "eoss", "batches", size)], len(settings), num_steps)
    warmup = [each.warmup(problem.num_train) for each in settings]
    train_steps(ensemble, problem.inputs, problem.targets, islice(batches, min(WARMUP_STEPS, num_steps)), warmup)
    done = min(WARMUP_STEPS, num_steps)
    points: list[list[Mapping[str, float]]] = [[] for _ in settings]
    for point in range(1, num_points + 1):
        end = round(num_steps * point / num_points)
        train_steps(ensemble, problem.inputs, problem.targets, islice(batches, max(end - done, 0)), settings)
        done = max(done, end)
        losses = full_losses(ensemble, problem.inputs, problem.targets)
        for index, found in enumerate(points):
            generator = stream(seed, "eoss", "measure", size, point, index)
            found.append(
                measure_member(ensemble, index, float(losses[index]), problem, size, generator, num_batches, done)
            )
    return {
        "series": [
            {
                "setting": setting,
                "optimizer": setting.optimizer,
                "points": found,
                "sharpness": _final_sharpness(ensemble, index, found[-1], problem),
            }
            for index, (setting, found) in enumerate(zip(settings, points, strict=True))
        ],
        "num_gradients": float(len(settings) * num_steps * size),
    }


def measure_member(
    ensemble: Ensemble,
    index: int,
    loss: float,
    problem: Problem,
    batch_size: int,
    generator: torch.Generator,
    num_batches: int,
    step: int,
) -> Mapping[str, float]:
    """Step, loss and batch sharpness of one member; NaN sharpness where its loss is not finite."""
    if not math.isfinite(loss):
        return {"step": step, "loss": loss, "value": math.nan, "standard_error": math.nan, "num_batches": 0}
    found = measure_batch_sharpness(to_model(ensemble, index), problem, batch_size, generator, num_batches)
    return {"step": step, "loss": loss, **found}


def _final_sharpness(ensemble: Ensemble, index: int, last: Mapping[str, float], problem: Problem) -> float:
    return measure_sharpness(to_model(ensemble, index), problem) if math.isfinite(last["loss"]) else math.nan
