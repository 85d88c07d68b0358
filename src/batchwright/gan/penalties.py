"""What keeps the critic in bounds: the one-sided hinge, the witness's gradient penalty, and the scale of a scaled MMD.

Sources: Li et al. (2017), MMD GAN (hinge on the means); Binkowski et al. (2018), arXiv:1801.01401 (gradient penalty on the
    witness function);
Arbel et al. (2018), arXiv:1805.11565 (scale by the Jacobian at real points).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from batchwright.core.kernels import Kernel

Critic = Callable[[Tensor], Tensor]


def mean_hinge(real: Tensor, generated: Tensor) -> Tensor:
    """``mean_k min(mean_i f_k(x_i) - mean_i f_k(y_i), 0)``, never positive.

    A flip of a coordinate keeps the MMD, so the critic may be held to means that are larger for real points.
    """
    return (real.mean(dim=0) - generated.mean(dim=0)).clamp(max=0).mean()


def witness_penalty(
    critic: Critic, kernel: Kernel, real: Tensor, generated: Tensor, generator: torch.Generator
) -> Tensor:
    """``mean((||grad_v w(v)|| - 1)^2)`` at points ``v`` between real and generated ones.

    ``w(v) = mean_i k(f(v), f(x_i)) - mean_j k(f(v), f(y_j))``. Deviation: the published code takes the norm over one axis
    of an image alone; this is the norm over the whole point.
    """
    num = min(len(real), len(generated))
    share = torch.rand((num,) + (1,) * (real.ndim - 1), generator=generator).to(real)
    between = (share * real[:num] + (1 - share) * generated[:num]).detach().requires_grad_()
    features = critic(between)
    witness = kernel.gram(features, critic(real)).mean(dim=1) - kernel.gram(features, critic(generated)).mean(dim=1)
    (slope,) = torch.autograd.grad(witness.sum(), between, create_graph=True)
    norms = (slope.flatten(1).square().sum(dim=1) + 1e-12).sqrt()
    return (norms - 1).square().mean()


def jacobian_sq_norm(critic: Critic, real: Tensor) -> Tensor:
    """``E ||J_f(x)||_F^2`` over the real points; one backward pass a feature."""
    points = real.detach().requires_grad_()
    features = critic(points)
    total = features.new_zeros(())
    for column in features.unbind(dim=1):
        (slope,) = torch.autograd.grad(column.sum(), points, create_graph=True)
        total = total + slope.square().sum() / len(real)
    return total
