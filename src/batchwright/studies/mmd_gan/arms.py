"""What is trained in the study: each arm is a way to train a generator, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchwright.gan import GaussianMixture, Kernel, Linear, RationalQuadratic

GMMN_VARIANCES = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
KERNELS: Mapping[str, Kernel] = {
    "gaussians": GaussianMixture(),
    "gmmn": GaussianMixture.of_variances(GMMN_VARIANCES),
    # The published variances are for pixels in [0, 1]; in [-1, 1] squared distances are four times as large.
    "gmmn-wide": GaussianMixture.of_variances([4 * variance for variance in GMMN_VARIANCES]),
    "rational-quadratic": RationalQuadratic() + Linear(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A way to train a generator.

    Attributes:
        label: In tables and figures.
        critic: Whether there is one; without it the points themselves are compared (GMMN).
        kernel: Name in `KERNELS`.
        network: ``mlp`` or ``dcgan``, which is the paper's.
        noise_dim: Numbers of noise a point, and features of the critic, of ``mlp``.
        options: Of `batchwright.gan.GanOptions`, beside the batch size.
    """

    label: str
    critic: bool = True
    kernel: str = "gaussians"
    network: str = "mlp"
    noise_dim: int = 10
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


DIGITS = {"lr": 1e-3, "clip": 0.1}
# Larger images by perceptrons: a short warm-up, since each of its critic steps costs as much as a later one, and averaged weights.
LARGER = {**DIGITS, "warmup_critic_steps": 20, "ema": 0.99}

ARMS: Mapping[str, Arm] = {
    "mmd-gan": Arm(label="MMD GAN, clip 0.1", options=DIGITS),
    "no-hinge": Arm(label="MMD GAN without hinge", options={**DIGITS, "hinge": 0.0}),
    "no-autoencoder": Arm(label="MMD GAN without autoencoder", options={**DIGITS, "autoencoder": 0.0}),
    "clip-0.01": Arm(label="MMD GAN, clip 0.01", options={**DIGITS, "clip": 0.01}),
    "penalty": Arm(
        label="unbiased loss, rational quadratic, gradient penalty",
        kernel="rational-quadratic",
        options={
            "loss": "mmd-squared",
            "lr": 5e-4,
            "clip": None,
            "hinge": 0.0,
            "autoencoder": 0.0,
            "gradient_penalty": 1.0,
        },
    ),
    "gmmn": Arm(label="GMMN", critic=False, kernel="gmmn", options={"lr": 1e-3}),
    "mmd-gan-larger": Arm(label="MMD GAN, clip 0.1", noise_dim=16, options=LARGER),
    "gmmn-larger": Arm(label="GMMN", critic=False, kernel="gmmn-wide", noise_dim=16, options={"lr": 1e-3, "ema": 0.99}),
    # The published runs: networks, optimizer and schedule of the paper's code.
    "mmd-gan-published": Arm(label="MMD GAN as published", network="dcgan"),
    "gmmn-published": Arm(
        label="GMMN in data space", critic=False, kernel="gmmn-wide", network="dcgan", options={"lr": 1e-3}
    ),
}
