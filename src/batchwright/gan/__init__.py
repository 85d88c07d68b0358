"""MMD GAN, and two-sample tools: kernels, the maximum mean discrepancy with its tests, and the kernel inception distance."""

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
from batchwright.gan.losses import LOSSES
from batchwright.gan.networks import GanNetworks, dcgan_networks, mlp_networks
from batchwright.gan.scores import ClassScores, class_scores
from batchwright.gan.trainer import MMDGAN, FeatureScaleWarning, GanOptions

__all__ = [
    "LOSSES",
    "MMDGAN",
    "ClassScores",
    "FeatureScaleWarning",
    "GanNetworks",
    "GanOptions",
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
    "class_scores",
    "dcgan_networks",
    "kid",
    "median_distance",
    "median_gaussians",
    "mlp_networks",
    "mmd2",
    "mmd2_blocks",
    "mmd2_estimate",
    "mmd2_linear",
    "relative_test",
    "two_sample_test",
]
