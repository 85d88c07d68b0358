"""Two-sample tools: kernels, the maximum mean discrepancy with its tests, and the kernel inception distance."""

from batchwright.core.kernels import (
    GaussianMixture,
    Kernel,
    Laplace,
    Linear,
    Polynomial,
    RationalQuadratic,
    median_distance,
    median_gaussians,
)
from batchwright.core.mmd import (
    MmdEstimate,
    MmdOfParts,
    RelativeTest,
    TwoSampleTest,
    mmd2,
    mmd2_blocks,
    mmd2_estimate,
    mmd2_linear,
    relative_test,
    two_sample_test,
)
from batchwright.gan.kid import Kid, kid

__all__ = [
    "GaussianMixture",
    "Kernel",
    "Kid",
    "Laplace",
    "Linear",
    "MmdEstimate",
    "MmdOfParts",
    "Polynomial",
    "RationalQuadratic",
    "RelativeTest",
    "TwoSampleTest",
    "kid",
    "median_distance",
    "median_gaussians",
    "mmd2",
    "mmd2_blocks",
    "mmd2_estimate",
    "mmd2_linear",
    "relative_test",
    "two_sample_test",
]
