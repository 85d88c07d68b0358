"""Target 7: processor time of a critic step, and of the squared MMD in it, against the batch size, as ``a + b B^2``."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from batchwright.gan import FeatureScaleWarning, mmd2
from batchwright.studies.mmd_gan.arms import ARMS
from batchwright.studies.mmd_gan.problems import load_problem
from batchwright.studies.mmd_gan.training import make_trainer
from batchwright.studies.study import Place

BATCH_SIZES = (64, 256, 1024)
MORE_STEPS = 8


def run_cost(place: Place, *, seed: int, num_rounds: int) -> Mapping[str, Any]:
    """Seconds of a critic step on the digits, and of its MMD forward and backward, at each batch size: medians over rounds, and fits.

    The one cell whose numbers differ from run to run: they are times of this machine.
    """
    problem = load_problem("digits", None)
    arms = {
        (size, steps): make_trainer(
            problem,
            replace(
                ARMS["mmd-gan"],
                options={
                    **ARMS["mmd-gan"].options,
                    "critic_steps": steps,
                    "warmup_critic_steps": 1,
                    "warmup_steps": 0,
                    "warmup_every": 10**9,
                },
            ),
            size,
            seed,
            place.device,
        )
        for size in BATCH_SIZES
        for steps in (1, 1 + MORE_STEPS)
    }
    # Untrained features lie too near each other, and the trainer says so; here it is the time that matters.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatureScaleWarning)
        for trainer in arms.values():
            trainer.train(2)
    losses = {size: _loss_step(size, place.device) for size in BATCH_SIZES}
    steps_s: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    losses_s: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    for _ in range(num_rounds):
        for size in BATCH_SIZES:
            more, fewer = (_clock(partial(arms[size, steps].train, 1)) for steps in (1 + MORE_STEPS, 1))
            steps_s[size].append((more - fewer) / MORE_STEPS)
            losses_s[size].append(_clock(losses[size]))
    return {"critic_step": _fitted(steps_s), "mmd": _fitted(losses_s)}


def fit(seconds: Mapping[int, float]) -> tuple[float, float, float]:
    """``a``, ``b`` of ``a + b B^2`` by least squares of relative errors, and the largest of them."""
    sizes = sorted(seconds)
    values = np.array([seconds[size] for size in sizes])
    design = np.array([[1.0, float(size) ** 2] for size in sizes])
    (fixed, quadratic), *_ = np.linalg.lstsq(design / values[:, None], np.ones(len(sizes)), rcond=None)
    errors = np.abs(design @ np.array([fixed, quadratic]) / values - 1)
    return float(fixed), float(quadratic), float(errors.max())


def _fitted(seconds: Mapping[int, list[float]]) -> Mapping[str, Any]:
    found = {size: median(values) for size, values in seconds.items()}
    fixed, quadratic, error = fit(found)
    return {
        "seconds": {str(size): value for size, value in found.items()},
        "fixed": fixed,
        "quadratic": quadratic,
        "relative_error": error,
    }


def _loss_step(batch_size: int, device: torch.device) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, batch_size, 10, generator=generator).to(device)
    x.requires_grad_()
    return lambda: torch.autograd.grad(mmd2(x, y, unbiased=False), x)


def _clock(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start
