"""Mean and variance of a function of a Gaussian: closed forms for the ReLU family, quadrature for smooth functions.

All are written in ``t = mean / deviation``, so that nothing cancels where the mean is many deviations above zero, and differentiate
twice. A variance of zero, as of a channel whose scale is zero, is a point mass.

Source: rectified Gaussian, r1 = m Φ(m/s) + s φ(m/s), r2 = (m² + v) Φ(m/s) + m s φ(m/s); Wang et al. (2018) draw samples instead.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# A variance below this is taken as this: the square root has no derivative at zero.
TINY = 1e-24
NUM_NODES = 48

Moments = tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]


def relu_moments(mean: Float[Tensor, "*shape"], var: Float[Tensor, "*shape"]) -> Moments:
    """Mean and variance of ``max(z, 0)`` for ``z`` Gaussian.

    Args:
        mean: Mean of ``z``.
        var: Its variance, at least zero.

    Example:
        >>> mean, var = relu_moments(torch.tensor([0.0]), torch.tensor([1.0]))
        >>> round(float(mean), 4), round(float(var), 4)
        (0.3989, 0.3408)
    """
    deviation = var.clamp(min=TINY).sqrt()
    t = mean / deviation
    below, above, density = torch.special.ndtr(-t), torch.special.ndtr(t), _density(t)
    # r2 - r1² with its large terms cancelled by hand: (1 + t²) Φ + t φ - (t Φ + φ)².
    share = above + t.square() * above * below + t * density * (below - above) - density.square()
    return deviation * (t * above + density), var * share.clamp(min=0.0)


def clamp_moments(mean: Float[Tensor, "*shape"], var: Float[Tensor, "*shape"], top: float) -> Moments:
    """Mean and variance of ``min(max(z, 0), top)``, as of ReLU6."""
    first, second = _rectified(mean, var)
    first_above, second_above = _rectified(mean - top, var)
    # z² - top² = (z - top)² + 2 top (z - top) above the top.
    first, second = first - first_above, second - second_above - 2 * top * first_above
    return first, (second - first.square()).clamp(min=0.0)


def leaky_relu_moments(mean: Float[Tensor, "*shape"], var: Float[Tensor, "*shape"], slope: float) -> Moments:
    """Mean and variance of ``z`` where positive and ``slope * z`` elsewhere."""
    first_up, second_up = _rectified(mean, var)
    first_down, second_down = _rectified(-mean, var)
    first, second = first_up - slope * first_down, second_up + slope**2 * second_down
    return first, (second - first.square()).clamp(min=0.0)


def pointwise_moments(
    function: Callable[[Tensor], Tensor], mean: Float[Tensor, "*shape"], var: Float[Tensor, "*shape"]
) -> Moments:
    """Mean and variance of ``function(z)`` by Gauss-Hermite quadrature, for any function of single numbers.

    With 48 nodes the error is below 1e-6 for GELU, SiLU, tanh and sigmoid of variances up to 4, and below 1 % of the deviation
    where the function has a kink.
    """
    nodes, weights = (torch.as_tensor(each, dtype=mean.dtype, device=mean.device) for each in _hermite())
    values = function(mean.unsqueeze(-1) + var.clamp(min=TINY).sqrt().unsqueeze(-1) * nodes)
    first = values @ weights
    return first, (values - first.unsqueeze(-1)).square() @ weights


def _rectified(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """First and second moment of ``max(z, 0)``."""
    first, rest = relu_moments(mean, var)
    return first, rest + first.square()


def _density(t: Tensor) -> Tensor:
    return torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)


@cache
def _hermite() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
    return nodes, weights / weights.sum()
