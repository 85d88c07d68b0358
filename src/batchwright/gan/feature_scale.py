"""Whether the critic's features lie far enough apart for the kernel to tell more of them than their means."""

from batchwright.core.kernels import GaussianMixture, Kernel

# Feature distances below this share of the smallest bandwidth make the kernel quadratic: then means alone are matched.
QUADRATIC_SHARE = 0.3


class FeatureScaleWarning(UserWarning):
    """The critic's features lie so close together that the MMD matches their means alone."""


def means_alone(kernel: Kernel, feature_distance: float) -> str:
    """What there is to warn of, in a sentence; empty where features lie far enough apart, or the kernel has no bandwidth.

    Args:
        kernel: Of the MMD.
        feature_distance: Mean distance of real and generated features.
    """
    smallest = min(kernel.stds) if isinstance(kernel, GaussianMixture) else 0.0
    if not feature_distance < QUADRATIC_SHARE * smallest:
        return ""
    return (
        f"the critic's features lie {feature_distance:.2g} apart, below {QUADRATIC_SHARE} of the smallest bandwidth {smallest:g}: the "
        "MMD matches their means alone; use a wider clip, gradient_penalty, or smaller bandwidths"
    )
