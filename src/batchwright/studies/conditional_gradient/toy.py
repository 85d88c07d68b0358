"""Stochastic conditional gradient on a smooth cone, simulated over all parameters at once.

``f(x) = sqrt(delta^2 + ||x - x*||^2) - delta`` in ``D`` dimensions with ``||x*|| = 1``, from zero, on the Euclidean ball of radius 2.
The gradient of ``B`` samples has Gaussian noise of covariance ``sigma^2 / (D B) I``. A run of ``T`` samples makes ``K = T / B`` steps
of the constant size ``c / K``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchwright.studies.study import Place

DIM, DELTA, SIGMA, RADIUS = 32, 0.3, 30.0, 2.0
STEP_CONSTANTS = (0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def sweep(place: Place, *, tokens: int, batch_sizes: Sequence[int], num_repeats: int, seed: int) -> Mapping[str, Any]:
    """Final error of every step constant and momentum weight at each batch size; one table a repeat.

    Args:
        place: Not used.
        tokens: Samples of a run.
        batch_sizes: Samples in a step; each divides ``tokens``.
        num_repeats: Independent runs.
        seed: Of the noise.
    """
    mean = [simulate(tokens // size, size, num_repeats, [seed, tokens, size]) for size in batch_sizes]
    return {"errors": [each.tolist() for each in mean], "num_gradients": float(tokens * len(batch_sizes))}


def simulate(
    num_steps: int, batch_size: int, num_repeats: int, seed: Sequence[int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """``f(x_K) - f*``, shape (R, C, A): repeats, step constants, momentum weights.

    All settings of a repeat see the same noise, so that they differ by their settings alone.
    """
    generator = np.random.default_rng(list(seed))
    shape = (num_repeats, len(STEP_CONSTANTS), len(ALPHAS), DIM)
    optimum = np.full(DIM, DIM**-0.5)
    beta = (np.array(STEP_CONSTANTS) / num_steps)[None, :, None, None]
    alpha = np.array(ALPHAS)[None, None, :, None]
    scale = SIGMA / (DIM * batch_size) ** 0.5
    x = np.zeros(shape)
    momentum = np.zeros(shape)
    for step in range(num_steps + 1):
        offset = x - optimum
        gradient = offset / np.sqrt(DELTA**2 + (offset**2).sum(-1, keepdims=True))
        gradient += scale * generator.standard_normal((num_repeats, 1, 1, DIM))
        if step == 0:  # the average begins with a gradient of its own
            momentum += gradient
            continue
        momentum += alpha * (gradient - momentum)
        norm = np.linalg.norm(momentum, axis=-1, keepdims=True)
        x = (1 - beta) * x - beta * RADIUS * momentum / np.maximum(norm, 1e-300)
    found: np.ndarray[Any, np.dtype[np.float64]] = np.sqrt(DELTA**2 + ((x - optimum) ** 2).sum(-1)) - DELTA
    return found
