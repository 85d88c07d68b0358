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
from batchwright.gan.collapse import CollapseWarning
from batchwright.gan.feature_scale import FeatureScaleWarning
from batchwright.gan.kid import Kid, kid
from batchwright.gan.losses import LOSSES
from batchwright.gan.lr_rule import LrTest
from batchwright.gan.networks import GanNetworks, dcgan_networks, mlp_networks, small_networks, without_critic
from batchwright.gan.options import GanOptions
from batchwright.gan.scores import ClassScores, class_scores
from batchwright.gan.spectral import add_spectral_norm
from batchwright.gan.trainer import MMDGAN

__all__ = [
    "LOSSES",
    "MMDGAN",
    "ClassScores",
    "CollapseWarning",
    "FeatureScaleWarning",
    "GanNetworks",
    "GanOptions",
    "GaussianMixture",
    "Kernel",
    "Kid",
    "Laplace",
    "Linear",
    "LrTest",
    "MmdEstimate",
    "MmdOfParts",
    "Polynomial",
    "RationalQuadratic",
    "RelativeTest",
    "TwoSampleTest",
    "add_spectral_norm",
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
    "small_networks",
    "two_sample_test",
    "without_critic",
]
