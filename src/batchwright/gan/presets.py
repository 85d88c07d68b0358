"""Networks and options that go together, by the names of the command line."""

from typing import Any

from torch import nn

from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError
from batchwright.core.kernels import GaussianMixture, Linear, RationalQuadratic
from batchwright.gan.code_gmmn import CODE_KERNEL, code_networks
from batchwright.gan.networks import GanNetworks, dcgan_networks, mlp_networks, small_networks, without_critic
from batchwright.gan.options import GanOptions

NETWORKS = ("mlp", "small", "dcgan")
METHODS = ("mmd-gan", "gmmn", "gmmn-ae")
# The published variances of GMMN for MNIST pixels in [0, 1], times 4 for pixels in [-1, 1]: distances double.
GMMN_VARIANCES = (8.0, 20.0, 40.0, 80.0, 160.0, 320.0)
LOSSES = ("mmd", "mmd-squared", "repulsive", "repulsive-bounded")


def preset_networks(name: str, image_size: int, num_channels: int, *, method: str = "mmd-gan") -> GanNetworks:
    """Networks for images ``(B, C, S, S)``.

    Args:
        name: ``mlp``: perceptrons, for 8 x 8; ``small``: convolutions for minutes on a CPU; ``dcgan``: the paper's, sizes 8, 32, 64.
        image_size: Pixels of each side.
        num_channels: 1 or 3.
        method: ``gmmn`` leaves critic and decoder out; ``gmmn-ae`` gives a generator of codes.
    """
    check_choice("networks", name, NETWORKS)
    check_choice("method", method, METHODS)
    if method == "gmmn-ae":
        return code_networks()
    if name == "mlp":
        found = _flat(image_size, num_channels)
    elif name == "small":
        found = small_networks(image_size, num_channels)
    else:
        found = dcgan_networks(image_size, num_channels, noise_dim=10 if num_channels == 1 else 128)
    return without_critic(found) if method == "gmmn" else found


def _flat(image_size: int, num_channels: int) -> GanNetworks:
    if image_size > 8:
        raise InputError(f"networks 'mlp' are for images of 8 x 8, got {image_size}; take small or dcgan")
    shape = (num_channels, image_size, image_size)
    flat = mlp_networks(num_channels * image_size**2)
    assert flat.critic is not None
    assert flat.decoder is not None
    return GanNetworks(
        generator=nn.Sequential(flat.generator, nn.Unflatten(1, shape)),
        critic=nn.Sequential(nn.Flatten(), flat.critic),
        decoder=nn.Sequential(flat.decoder, nn.Unflatten(1, shape)),
        noise_dim=flat.noise_dim,
    )


def preset_options(loss: str, networks: str, *, method: str = "mmd-gan", **others: Any) -> GanOptions:
    """Options that train these networks under this loss; ``others`` replace them by name.

    The paper's own clip, learning rate and warm-up go with ``dcgan``; the smaller networks have no batch norm in the critic and
    take a wider clip and a larger learning rate. The repulsive losses come with spectral norm and one Gaussian, as published.
    """
    check_choice("loss", loss, LOSSES)
    check_choice("networks", networks, NETWORKS)
    check_choice("method", method, METHODS)
    if method != "mmd-gan":
        kernel = GaussianMixture.of_variances(GMMN_VARIANCES) if method == "gmmn" else CODE_KERNEL
        return GanOptions(**{"loss": loss, "kernel": kernel, "lr": 1e-3, "batch_size": 1000, **others})
    chosen: dict[str, Any] = {"loss": loss}
    if loss == "mmd" and networks != "dcgan":
        chosen |= {"clip": 0.1, "lr": 1e-3, "warmup_critic_steps": 100 if networks == "mlp" else 20}
    elif loss == "mmd-squared":
        chosen |= {"kernel": RationalQuadratic() + Linear(), "clip": None, "gradient_penalty": 1.0, "hinge": 0.0}
        chosen |= {"autoencoder": 0.0, "optimizer": "adam", "lr": 1e-4 if networks == "dcgan" else 1e-3}
        chosen |= {"warmup_critic_steps": 10}
    elif loss.startswith("repulsive"):
        chosen |= {"kernel": GaussianMixture((1.0,)), "clip": None, "spectral_norm": True, "spectral_scale": 1.8}
        chosen |= {"hinge": 0.0, "autoencoder": 0.0, "optimizer": "adam", "critic_steps": 1, "warmup_steps": 0}
        # One critic step a generator step, always, as published; a warm-up every so many steps would be another schedule.
        chosen |= {
            "warmup_critic_steps": 1,
            "lr": 2e-4 if networks == "dcgan" else 1e-3,
            "critic_lr": 5e-4,
            "ema": 0.99,
        }
    return GanOptions(**{**chosen, **others})
