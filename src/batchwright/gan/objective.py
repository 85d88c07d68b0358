"""The two losses of a step with all that the options add to them; the trainer and the noise measurement share them.

Source: Li et al. (2017), MMD GAN, and its public code (hinge, autoencoder term, which parts belong to which step).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.gan.losses import LOSSES
from batchwright.gan.networks import GanNetworks
from batchwright.gan.options import GanOptions
from batchwright.gan.penalties import jacobian_sq_norm, mean_hinge, witness_penalty


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A loss with the points that it is of.

    Attributes:
        loss: To be minimised.
        real: Real points.
        generated: Generated points.
        features: The critic's features of ``real``; None without a critic.
        others: Those of ``generated``.
    """

    loss: Tensor
    real: Tensor
    generated: Tensor
    features: Tensor | None
    others: Tensor | None


def critic_objective(
    options: GanOptions, networks: GanNetworks, real: Tensor, noise: Tensor, random: torch.Generator
) -> Objective:
    """What critic and decoder minimise; the generated points are cut off from the generator."""
    critic = networks.critic
    assert critic is not None
    with torch.no_grad():
        generated = networks.generator(noise)
    features, others = critic(real), critic(generated)
    loss = LOSSES[options.loss].critic(options.kernel, features, others)
    if options.jacobian_scale:
        loss = loss / (1 + options.jacobian_scale * jacobian_sq_norm(critic, real))
    if options.hinge:
        loss = loss - options.hinge * mean_hinge(features, others)
    decoder = networks.decoder
    if options.autoencoder and decoder is not None:
        errors = (decoder(features) - real).square().mean() + (decoder(others) - generated).square().mean()
        loss = loss + options.autoencoder * errors
    if options.gradient_penalty:
        loss = loss + options.gradient_penalty * witness_penalty(critic, options.kernel, real, generated, random)
    return Objective(loss=loss, real=real, generated=generated, features=features, others=others)


def generator_objective(options: GanOptions, networks: GanNetworks, real: Tensor, noise: Tensor) -> Objective:
    """What the generator minimises; the critic's parameters take no gradient."""
    critic = networks.critic
    generated = networks.generator(noise)
    if critic is None:
        loss = LOSSES[options.loss].generator(options.kernel, real.flatten(1), generated.flatten(1))
        return Objective(loss=loss, real=real, generated=generated, features=None, others=None)
    critic.requires_grad_(False)
    try:
        features, others = critic(real), critic(generated)
    finally:
        critic.requires_grad_(True)
    loss = LOSSES[options.loss].generator(options.kernel, features, others)
    if options.jacobian_scale:
        loss = loss / (1 + options.jacobian_scale * jacobian_sq_norm(critic, real).detach())
    if options.hinge:
        loss = loss + options.hinge * mean_hinge(features, others)
    return Objective(loss=loss, real=real, generated=generated, features=features, others=others)
