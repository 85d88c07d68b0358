"""Bandwidths from the data: the median distance of pairs.

Source: Gretton et al. (2012), *A Kernel Two-Sample Test*, section 8 (median heuristic).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.kernels.gaussian import GaussianMixture

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def median_distance(points: Float[Tensor, "N h"], *, num_points: int = 1000) -> float:
    """Median Euclidean distance of pairs of distinct rows, from at most ``num_points`` evenly spaced rows.

    Raises:
        InputError: If there are fewer than two rows, or more than half of the pairs coincide.

    Example:
        >>> median_distance(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    check_int("num_points", num_points, at_least=2)
    if len(points) < 2:
        raise InputError(f"points must hold at least 2 rows, got {len(points)}")
    step = max(1, -(-len(points) // num_points))
    distances = torch.pdist(points.detach()[::step].double())
    found = float(distances.median())
    if not found > 0:
        raise InputError(
            f"the median distance of points must be above zero, got {found:g}; more than half of the pairs are equal or not finite: "
            "give the bandwidths with GaussianMixture(stds=...)"
        )
    return found


def median_gaussians(points: Float[Tensor, "N h"], *, factors: tuple[float, ...] = FACTORS) -> GaussianMixture:
    """Gaussians with bandwidths around the median distance: a quarter, half, once, twice and four times it, weight 1 each.

    A test stays exact when the bandwidth comes from both samples together, since permuting them does not change it.
    """
    middle = median_distance(points)
    return GaussianMixture(stds=tuple(factor * middle for factor in factors))
