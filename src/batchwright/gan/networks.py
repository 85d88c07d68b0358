"""Generator, critic and decoder: small perceptrons for 8 x 8 images, and the convolutional ones of the paper.

Sources: Li et al. (2017), MMD GAN, and Radford et al. (2016), arXiv:1511.06434 (DCGAN), whose shapes the convolutional ones have.
"""

from dataclasses import dataclass

import torch
from torch import nn

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class GanNetworks:
    """The networks of a GAN; they are trained in place.

    Attributes:
        generator: Noise ``(B, noise_dim)`` to points.
        critic: Points to features ``(B, h)``; None trains the generator in the space of the points, which is GMMN.
        decoder: Features back to points, for the autoencoder term; None leaves it out.
        noise_dim: Numbers of noise a point.
    """

    generator: nn.Module
    critic: nn.Module | None
    decoder: nn.Module | None
    noise_dim: int


def mlp_networks(
    num_pixels: int = 64, *, noise_dim: int = 10, num_features: int = 10, critic: bool = True
) -> GanNetworks:
    """Perceptrons for flat points in [-1, 1], as in the digits experiment: 10-128-256-64, 64-128-128-10 and 10-128-64."""
    check_int("num_pixels", num_pixels, at_least=1)
    return GanNetworks(
        generator=nn.Sequential(
            nn.Linear(noise_dim, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Linear(256, num_pixels),
            nn.Tanh(),
        ),
        critic=nn.Sequential(
            nn.Linear(num_pixels, 128),
            nn.LeakyReLU(0.2),
            nn.Linear(128, 128),
            nn.LeakyReLU(0.2),
            nn.Linear(128, num_features),
        )
        if critic
        else None,
        decoder=nn.Sequential(nn.Linear(num_features, 128), nn.ReLU(), nn.Linear(128, num_pixels)) if critic else None,
        noise_dim=noise_dim,
    )


def dcgan_networks(
    image_size: int, num_channels: int = 3, *, noise_dim: int = 128, num_features: int = 128, width: int = 64
) -> GanNetworks:
    """The paper's convolutional networks for images ``(B, C, S, S)`` in [-1, 1], ``S`` a power of 2 from 8 on; no biases.

    Raises:
        InputError: If ``image_size`` is no power of 2 of at least 8; pad 28 to 32.
    """
    if image_size < 8 or image_size & (image_size - 1):
        raise InputError(
            f"image_size must be a power of 2 of at least 8, got {image_size}; pad the images, as 28 to 32"
        )
    critic: list[nn.Module] = [nn.Conv2d(num_channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    channels, size = width, image_size // 2
    while size > 4:
        critic += [
            nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.LeakyReLU(0.2),
        ]
        channels, size = 2 * channels, size // 2
    critic += [nn.Conv2d(channels, num_features, 4, bias=False), nn.Flatten()]
    networks = GanNetworks(
        generator=_growing(noise_dim, image_size, num_channels, width),
        critic=nn.Sequential(*critic),
        decoder=_growing(num_features, image_size, num_channels, width),
        noise_dim=noise_dim,
    )
    for network in (networks.generator, networks.critic, networks.decoder):
        assert network is not None
        network.apply(_initialise)
    return networks


def small_networks(
    image_size: int, num_channels: int = 1, *, noise_dim: int = 16, num_features: int = 16, width: int = 32
) -> GanNetworks:
    """Convolutional networks that train in minutes on a CPU, for images ``(B, C, S, S)``, ``S`` 4 or 7 times a power of 2.

    Without batch norm in the critic, so that its features of a point do not depend on the others. At 28 x 28 and ``width`` 32 they have
    0.08 million parameters each in generator, critic and decoder.

    Raises:
        InputError: If ``image_size`` is none of 8, 14, 16, 28, 32, 56, 64, ...
    """
    for name, value in (("num_channels", num_channels), ("noise_dim", noise_dim), ("num_features", num_features)):
        check_int(name, value, at_least=1)
    check_int("width", width, at_least=1)
    first = 7 if image_size % 7 == 0 else 4
    doublings = max(image_size // first, 1).bit_length() - 1
    if doublings < 1 or first * 2**doublings != image_size:
        raise InputError(f"image_size must be 4 or 7 times a power of 2, got {image_size}; 8, 28, 32 and 64 are")
    critic: list[nn.Module] = []
    channels = num_channels
    for number in range(doublings):
        critic += [nn.Conv2d(channels, width * 2**number, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels = width * 2**number
    critic += [nn.Flatten(), nn.Linear(channels * first * first, num_features)]
    return GanNetworks(
        generator=_small_growing(noise_dim, first, doublings, num_channels, width),
        critic=nn.Sequential(*critic),
        decoder=_small_growing(num_features, first, doublings, num_channels, width),
        noise_dim=noise_dim,
    )


def _small_growing(num_inputs: int, first: int, doublings: int, num_channels: int, width: int) -> nn.Sequential:
    channels = width * 2 ** (doublings - 1)
    layers: list[nn.Module] = [
        nn.Linear(num_inputs, channels * first * first, bias=False),
        nn.Unflatten(1, (channels, first, first)),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]
    for _ in range(doublings - 1):
        layers += [
            nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
        ]
        channels //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, num_channels, 4, 2, 1), nn.Tanh())


def without_critic(networks: GanNetworks) -> GanNetworks:
    """The same generator for GMMN, which has no critic."""
    return GanNetworks(generator=networks.generator, critic=None, decoder=None, noise_dim=networks.noise_dim)


def _growing(num_inputs: int, image_size: int, num_channels: int, width: int) -> nn.Sequential:
    channels = width * image_size // 8
    layers: list[nn.Module] = [
        nn.Unflatten(1, (num_inputs, 1, 1)),
        nn.ConvTranspose2d(num_inputs, channels, 4, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]
    size = 4
    while size < image_size // 2:
        layers += [
            nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
        ]
        channels, size = channels // 2, 2 * size
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, num_channels, 4, 2, 1, bias=False), nn.Tanh())


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.weight.normal_(0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        module.weight.normal_(1.0, 0.02)
        module.bias.zero_()
