"""Multiplicative gradient noise: weights of a large batch's examples that give its gradient the covariance of a small batch's.

Source: Hoffer, Hubara & Soudry (2017), Train longer, generalize better, arXiv:1705.08741, section 4: the gradient
``(1/M) sum_n z_n g_n`` with independent ``z_n`` of mean one and a variance proportional to the batch size ``M``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_choice, check_int
from batchwright.core.errors import InputError

KINDS = ("balanced", "normal", "gamma")


def noise_variance(batch_size: int, like_batch_size: int, *, kind: str = "balanced") -> float:
    """Variance of the weights that gives a batch the gradient covariance of a smaller one.

    With ``S0`` the covariance of an example's gradient over the data set and ``S = S0 + G G'`` its uncentred second moment, a batch of
    ``M`` of ``N`` examples without replacement has the covariance ``(1/M - 1/N) N/(N-1) S0``. Weights of variance ``s2``
    add ``s2 S / M`` if they are independent, and ``s2 (M-1)/M^2 N/(N-1) S0`` if they are balanced to sum to ``M``. So
    ``s2 = M (M - m) / (m (M - 1))`` makes balanced weights match a batch of ``m`` examples exactly, matrix by matrix, whatever ``G``
    and ``N`` are; for independent ones ``s2 = M/m - 1`` matches it where the mean gradient ``G`` is small beside its noise,
    and is too much by ``s2 G G'/M`` where it is not.

    Args:
        batch_size: Examples ``M`` of the step.
        like_batch_size: Examples ``m`` of the batch whose covariance is wanted.
        kind: Of the weights, as of `noise_weights`.

    Returns:
        The variance; 0 where the two sizes are equal.

    Raises:
        InputError: If ``like_batch_size`` is larger than the batch, which no noise makes less noisy.

    Example:
        >>> noise_variance(256, 16, kind="normal"), round(noise_variance(256, 16), 4)
        (15.0, 15.0588)
    """
    check_choice("kind", kind, KINDS)
    check_int("batch_size", batch_size, at_least=1)
    check_int("like_batch_size", like_batch_size, at_least=1)
    if like_batch_size > batch_size:
        raise InputError(
            f"like_batch_size must be at most the batch size, got {like_batch_size} for {batch_size}; "
            "noise cannot be taken away: use a smaller one"
        )
    excess = batch_size / like_batch_size - 1
    return excess * batch_size / (batch_size - 1) if kind == "balanced" and batch_size > 1 else excess


def noise_weights(
    batch_size: int, like_batch_size: int, *, generator: torch.Generator, kind: str = "balanced"
) -> Float[Tensor, " B"]:
    """Weights to multiply each example's loss, or gradient, by before the mean over the batch is taken.

    Args:
        batch_size: Examples ``M`` of the whole step, on all ranks and in all micro-batches.
        like_batch_size: Examples of the batch whose gradient covariance is wanted.
        generator: On the device where the weights are wanted.
        kind: ``balanced``: normal, made to sum to ``M``, so the covariance matches exactly. ``normal``: independent, as
            published. ``gamma``: independent and never negative.

    Returns:
        ``M`` weights of mean one and the variance of `noise_variance`; ones where the two sizes are equal.

    Raises:
        InputError: As `noise_variance`.

    Deviation:
        ``balanced`` is not the paper's: subtracting the mean of the draws keeps the noise out of the direction of the batch's
        own gradient, and then the match is exact without a measurement.
    """
    variance = noise_variance(batch_size, like_batch_size, kind=kind)
    device = generator.device
    if variance == 0:
        return torch.ones(batch_size, device=device)
    if kind == "gamma":
        return _gamma(batch_size, 1 / variance, generator) * variance
    drawn: Tensor = torch.randn(batch_size, generator=generator, device=device) * variance**0.5
    return (drawn - drawn.mean() if kind == "balanced" else drawn).add_(1.0)


def step_weights(
    batch_size: int, like_batch_size: int, *, seed: int, step: int, rank: int = 0, kind: str = "balanced"
) -> Float[Tensor, " B"] | None:
    """The weights of one optimizer step, which depend on seed, step and rank alone: a resumed run draws them again.

    Returns:
        On the CPU; None where the batch is no larger than ``like_batch_size``, so that there is no noise to be put back.
    """
    if batch_size <= like_batch_size:
        return None
    generator = torch.Generator().manual_seed(((seed * 1_000_003 + step) * 1_000_003 + rank) % (2**63 - 1))
    return noise_weights(batch_size, like_batch_size, generator=generator, kind=kind)


def _gamma(number: int, shape: float, generator: torch.Generator) -> Tensor:
    concentration = torch.full((number,), shape, device=generator.device)
    return torch._standard_gamma(concentration, generator=generator)
