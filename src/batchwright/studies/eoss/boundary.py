"""The exact mean-square boundary: where the spectral radius of the second moments crosses one, against the closed form.

The radius is found numerically for curvature noise, at means from 0.1 % to 99.9 % of what is stable without noise; the closed
form is the library's. They share no algebra: one is an eigenvalue of a 3 x 3 matrix, the other the root of its determinant.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from batchwright.measure.curvature.mean_square import max_stable_lr, second_moment_growth, thresholds
from batchwright.studies.study import Place

SHARES = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999)
NUM_HALVINGS = 60


def run_boundary(place: Place, *, momenta: Sequence[float], nesterov: bool) -> Mapping[str, Any]:
    """Largest relative difference between the two boundaries, over momenta and means.

    Returns:
        ``points``: momentum, share of the noiseless limit, the noise at which the radius crosses one, and ``error``: the
        relative distance of the closed form's largest learning rate at that noise from the learning rate of the crossing.
    """
    points = []
    for momentum in momenta:
        _, limit = thresholds(lr=1.0, momentum=momentum, nesterov=nesterov)
        for share in SHARES:
            mean = share * limit
            variance = _crossing(mean, momentum, nesterov)
            closed = max_stable_lr(
                curvature_mean=mean, curvature_variance=variance, momentum=momentum, nesterov=nesterov
            )
            points.append({"momentum": momentum, "share": share, "variance": variance, "error": abs(closed - 1.0)})
    return {"points": points, "error": max(point["error"] for point in points)}


def _crossing(mean: float, momentum: float, nesterov: bool) -> float:
    """Variance of the curvature, at learning rate one, at which second moments neither grow nor shrink."""

    def grows(variance: float) -> bool:
        growth = second_moment_growth(
            lr=1.0, curvature_mean=mean, curvature_variance=variance, momentum=momentum, nesterov=nesterov
        )
        return growth > 1.0

    low, high = 0.0, 1.0
    while not grows(high):
        high *= 2.0
    for _ in range(NUM_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if grows(middle) else (middle, high)
    return 0.5 * (low + high)
