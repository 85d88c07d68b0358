"""The loss as a random potential: how much it varies with the direction, against the distance from a point.

Source: Hoffer, Hubara & Soudry (2017), arXiv:1705.08741, section 2 and appendix B: the standard deviation of the loss over random
directions grows as ``distance^(alpha/2)``; a straight line is ``alpha = 2``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss
from batchwright.core.preserve import RandomState, preserved
from batchwright.core.statistics import Interval, student_quantile
from batchwright.core.vectors import sq_norm, trainable


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomPotential:
    """Scatter of the loss over random directions.

    Attributes:
        radii: Distances from the point.
        deviations: Standard deviation over directions of the loss minus the loss at the point, with intervals, one a radius; NaN where
            the loss was not finite.
        alpha: Twice the slope of their logarithm against the logarithm of the radius.
        num_directions: Directions behind each deviation; the same ones at every radius.
    """

    radii: tuple[float, ...]
    deviations: tuple[Interval, ...]
    alpha: Interval
    num_directions: int


def random_potential(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    radii: Sequence[float],
    *,
    generator: torch.Generator,
    num_directions: int = 16,
    center: Sequence[Tensor] | None = None,
) -> RandomPotential:
    """Measure ``L(w + r u) - L(w)`` over random unit directions ``u`` of all trainable parameters.

    The model keeps its mode, so batch norm uses the batch's own statistics in training; dropout draws the same masks at
    every point. Costs ``1 + len(radii) * num_directions`` forward passes, and leaves nothing changed.

    Args:
        model: At the point, unless ``center`` names another.
        loss: One loss an example.
        batch: On which the loss is measured; the same for all points.
        radii: At least two distances, rising.
        generator: Of the directions, on the CPU.
        num_directions: At least 3.
        center: Values of the trainable parameters at the point; where the model is where left out.

    Returns:
        The scatter at each radius. Intervals of the deviations are those of normal losses; that of alpha is over directions, left out
        in turn (jackknife), and does not know how far from normal they are.

    Raises:
        InputError: If an argument breaks a rule.
    """
    check_int("num_directions", num_directions, at_least=3)
    distances = [check_number("radii", radius, above=0.0) for radius in radii]
    if len(distances) < 2 or sorted(set(distances)) != distances:
        raise InputError(f"radii must be at least two rising distances, got {distances}; give for instance [0.1, 1.0]")
    parameters = trainable(model)
    with preserved(model, generators=()), torch.no_grad():
        origin = [each.detach().clone() for each in (parameters if center is None else center)]
        random_state = RandomState.capture()
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

        def value(direction: Sequence[Tensor] | None, radius: float) -> float:
            for number, parameter in enumerate(parameters):
                parameter.copy_(origin[number])
                if direction is not None:
                    parameter.add_(direction[number], alpha=radius)
            random_state.restore()
            for buffer, kept in buffers:
                buffer.copy_(kept)
            return float(loss(model, batch).double().mean())

        start = value(None, 0.0)
        found = np.array(
            [
                [value(direction, radius) - start for radius in distances]
                for direction in (_direction(parameters, generator) for _ in range(num_directions))
            ]
        )
    return _summarise(distances, found)


def _direction(parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    drawn = [torch.randn(each.shape, generator=generator).to(each) for each in parameters]
    norm = float(sq_norm(drawn)) ** 0.5
    return [each / norm for each in drawn]


def _summarise(radii: Sequence[float], found: np.ndarray) -> RandomPotential:
    from scipy.special import gammaincinv

    number = len(found)
    deviations = []
    for column in found.T:
        spread = float(column.std(ddof=1)) if np.isfinite(column).all() else math.nan
        # (n-1) s^2 / sigma^2 is chi-squared, and its quantile is twice that of a gamma variable of half as many degrees.
        upper, lower = (2 * float(gammaincinv((number - 1) / 2, share)) for share in (0.975, 0.025))
        ends = (spread * math.sqrt((number - 1) / quantile) for quantile in (upper, lower))
        low, high = ends
        deviations.append(Interval(value=spread, low=low, high=high))
    return RandomPotential(
        radii=tuple(radii), deviations=tuple(deviations), alpha=_alpha(np.asarray(radii), found), num_directions=number
    )


def _alpha(radii: np.ndarray, found: np.ndarray) -> Interval:
    """Twice the slope in logarithms, with a jackknife interval over directions; NaN where a deviation is zero or not finite."""
    x = np.log(radii) - np.log(radii).mean()

    def slope(rows: np.ndarray) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(rows.std(axis=0, ddof=1))
        return float(2 * (x * logs).sum() / (x**2).sum()) if np.isfinite(logs).all() else math.nan

    value = slope(found)
    number = len(found)
    without = np.array([slope(np.delete(found, index, axis=0)) for index in range(number)])
    error = math.sqrt((number - 1) / number * float(((without - without.mean()) ** 2).sum()))
    half = student_quantile(0.95, number - 1) * error
    if not math.isfinite(value) or not math.isfinite(half):
        return Interval(value=value, low=-math.inf, high=math.inf)
    return Interval(value=value, low=value - half, high=value + half)
