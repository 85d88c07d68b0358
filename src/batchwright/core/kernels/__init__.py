"""Kernels as objects that can be added and scaled, each a function of squared distance and inner product."""

from batchwright.core.kernels.bandwidth import median_distance, median_gaussians
from batchwright.core.kernels.gaussian import GaussianMixture
from batchwright.core.kernels.kernel import Kernel, Slopes, WeightedSum
from batchwright.core.kernels.pairs import Pairs
from batchwright.core.kernels.products import Linear, Polynomial
from batchwright.core.kernels.radial import Laplace, RationalQuadratic

__all__ = [
    "GaussianMixture",
    "Kernel",
    "Laplace",
    "Linear",
    "Pairs",
    "Polynomial",
    "RationalQuadratic",
    "Slopes",
    "WeightedSum",
    "median_distance",
    "median_gaussians",
]
