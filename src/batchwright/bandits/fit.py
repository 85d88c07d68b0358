"""Kernel parameters from data: the maximum of the marginal likelihood times a prior."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.bandits.kernels import Kernel
from batchwright.bandits.marginal_likelihood import Objective, Prior, default_prior
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedKernel:
    """A kernel with its noise and mean, in the units of the values.

    Attributes:
        kernel: Covariance.
        noise_variance: Of one value.
        mean: Of the process.
        objective: Log marginal likelihood plus log prior, of standardised values, at the maximum.
        converged: Whether the best search ended at a point of small gradient.
        num_starts: Searches that were run to their end.
    """

    kernel: Kernel
    noise_variance: float
    mean: float
    objective: float
    converged: bool
    num_starts: int


def fit_kernel(
    points: Float[Tensor, "n D"],
    values: Float[Tensor, " n"],
    *,
    name: str = "se",
    nu: float = 2.5,
    prior: Prior | None = None,
    noise_variance: float | None = None,
    num_starts: int = 2,
    num_scanned: int = 16,
    seed: int = 0,
) -> FittedKernel:
    """Fit length scales, variance, noise and mean.

    The objective is read at ``num_scanned`` scattered points in one batched Cholesky, and L-BFGS with exact gradients climbs from
    the best of them. It stops where a step changes the objective by less than 1e-9 of it.

    Args:
        points: On about the unit cube, which the prior is for.
        values: At least two; they are standardised inside.
        name: ``se`` or ``matern``.
        nu: Smoothness of ``matern``.
        prior: Of the parameters, for standardised values; `default_prior` by default.
        noise_variance: Given noise, in squared units of the values; fitted by default.
        num_starts: Searches.
        num_scanned: Scattered points, of which the best are the starts; the middle of the prior is among them.
        seed: Of the scattered points.

    Returns:
        The best that was found; ``converged`` is False where the search stopped early.

    Raises:
        InputError: If there are fewer than two values, or values that are not finite.
    """
    from scipy.optimize import minimize

    check_int("num_starts", num_starts, at_least=1)
    if len(values) < 2 or not bool(torch.isfinite(values).all()):
        raise InputError(f"values must hold at least 2 finite numbers, got {len(values)}; leave out failed trials")
    centre, spread = float(values.mean()), float(values.std())
    # Values that are all alike say nothing of a scale.
    spread = spread if spread > 1e-12 * max(1.0, abs(centre)) else 1.0
    points, values = points.double().cpu(), (values.double().cpu() - centre) / spread
    prior = prior or default_prior(points.shape[1])
    objective = Objective(points=points, values=values, name=name, nu=nu, prior=prior)
    bounds = _bounds(objective, noise_variance, spread)
    starts = _starts(objective, bounds, num_starts, max(num_scanned, num_starts), seed)

    def negative(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective.with_gradient(parameters)
        return (-value, -gradient) if math.isfinite(value) else (1e25, gradient)

    found = [
        minimize(negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-9, "gtol": 1e-4})
        for start in starts
    ]
    best = min(found, key=lambda each: float(each.fun))
    parameters = torch.from_numpy(best.x)
    return FittedKernel(
        kernel=objective.kernel(parameters, scale=spread**2),
        noise_variance=float(torch.exp(parameters[points.shape[1]])) * spread**2,
        mean=centre + spread * objective.mean(parameters),
        objective=-float(best.fun),
        converged=bool(best.success),
        num_starts=len(starts),
    )


def _bounds(objective: Objective, noise_variance: float | None, spread: float) -> list[tuple[float, float]]:
    """Of the logarithms; wide, against overflow alone, but for the noise."""
    lowest = math.log(objective.prior.smallest_noise)
    noise = (lowest, math.log(1e3))
    if noise_variance is not None:
        given = max(math.log(noise_variance) - 2 * math.log(spread), lowest) if noise_variance > 0 else lowest
        noise = (given, given)
    found = [(math.log(1e-3), math.log(1e4))] * objective.points.shape[1] + [noise]
    return found + [(math.log(1e-3), math.log(1e3))] * (objective.prior.variance is not None)


def _starts(
    objective: Objective, bounds: list[tuple[float, float]], num_starts: int, num_scanned: int, seed: int
) -> list[np.ndarray]:
    dim = objective.points.shape[1]
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(num_scanned, objective.num_parameters, generator=generator, dtype=torch.float64)
    scanned = torch.empty_like(spread)
    # Length scales from a twentieth of the cube to twice its diagonal, alike in the dimensions but for a factor of two.
    reach = math.log(2 * math.sqrt(dim) / 0.05)
    scanned[:, :dim] = math.log(0.05) + reach * spread[:, :1] + math.log(2.0) * (2 * spread[:, :dim].roll(1, 1) - 1)
    scanned[:, dim] = math.log(1e-4) + math.log(1e4) * spread[:, dim]
    if objective.prior.variance is not None:
        scanned[:, dim + 1] = math.log(0.5) + math.log(4.0) * spread[:, dim + 1]
    scanned[0, :dim] = objective.prior.lengthscale.location
    scanned[0, dim:] = -4.0
    if objective.prior.variance is not None:
        scanned[0, dim + 1] = 0.0
    low, high = torch.tensor(bounds, dtype=torch.float64).T
    scanned = scanned.clamp(low, high)
    # A block of at most 2^24 numbers at once.
    step = max(1, 2**24 // len(objective.values) ** 2)
    objectives = torch.cat([objective(part) for part in scanned.split(step)])
    order = objectives.argsort(descending=True)
    return [scanned[index].numpy() for index in order[:num_starts]]
