"""Squared maximum mean discrepancy of two samples.

Source: Gretton et al. (2012), *A Kernel Two-Sample Test*, JMLR 13, lemma 6 (unbiased, eq. 3; biased, eq. 5).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.kernels import GaussianMixture, Kernel
from batchwright.core.mmd.blocks import Weights, default_block
from batchwright.core.mmd.function import SquaredMmd, value_and_grad

# The kernel of MMD GAN, made once: checking its bandwidths takes as long as a product of two batches.
PUBLISHED = GaussianMixture()


def mmd2(
    x: Float[Tensor, "M h"],
    y: Float[Tensor, "N h"],
    kernel: Kernel | None = None,
    unbiased: bool = True,
    *,
    block_size: int | None = None,
) -> Float[Tensor, ""]:
    """Estimate the squared MMD between the laws of two samples, of equal size or not.

    ``E k(x, x') + E k(y, y') - 2 E k(x, y)``, each expectation as a mean over pairs. The unbiased estimate leaves out
    pairs of a point with itself, so it is negative about half the time when the laws are equal. The biased one keeps them:
    it is the squared distance of the two mean embeddings, never negative but for rounding, and too large by ``(k(0) - E
    k(x, x')) / M + (k(0) - E k(y, y')) / N``.

    Differentiable as often as wished by both samples; only blocks of pairs are ever held, so memory grows with ``M + N``.
    half and bfloat16 are computed, and returned, in float32.

    Args:
        x: First sample, one point a row.
        y: Second sample.
        kernel: Any kernel; left out, the five Gaussians of MMD GAN with standard deviations 1, 2, 4, 8, 16 and weight 1
            each, so ``k(0) = 5``.
        unbiased: Whether to leave out pairs of a point with itself.
        block_size: Rows and columns of a block of pairs; 256 on a CPU and 4096 on a GPU where left out.

    Returns:
        The estimate, in the squared unit of the kernel; NaN where a sample holds NaN.

    Raises:
        InputError: If the samples differ in dimension, data type or device, or hold too few points (1, or 2 for ``unbiased``).

    Example:
        >>> x, y = torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]])
        >>> round(mmd2(x, y, GaussianMixture(stds=(1.0,)), unbiased=False).item(), 4)
        0.7869
    """
    x, y = checked_samples(x, y, at_least=2 if unbiased else 1)
    kernel = PUBLISHED if kernel is None else kernel
    side = default_block(x.device) if block_size is None else check_int("block_size", block_size, at_least=1)
    weights = Weights(num_x=len(x), num_y=len(y), unbiased=unbiased)
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        return SquaredMmd.apply(x, y, kernel, weights, side)  # type: ignore[no-any-return]
    with torch.no_grad():
        return value_and_grad(x, y, kernel, weights, side, with_grad=False)[0]


def checked_samples(x: Tensor, y: Tensor, *, at_least: int) -> tuple[Tensor, Tensor]:
    """Both samples as matrices of one kind, of float32 at least.

    Raises:
        InputError: If they do not go together.
    """
    for name, sample in (("x", x), ("y", y)):
        if not isinstance(sample, Tensor):
            raise InputError(
                f"{name} must be a tensor, got {type(sample).__name__}; torch.as_tensor(...) makes one; columns of a table that are "
                "in different units want to be divided by their standard deviations first"
            )
        if sample.ndim != 2 or not sample.dtype.is_floating_point:
            raise InputError(
                f"{name} must be a matrix of floating-point numbers with one point a row, got shape {tuple(sample.shape)} of "
                f"{sample.dtype}; flatten each example: {name}.flatten(1).float()"
            )
        if len(sample) < at_least:
            raise InputError(f"{name} must hold at least {at_least} points, got {len(sample)}; draw a larger sample")
    if x.shape[1] != y.shape[1] or x.dtype != y.dtype or x.device != y.device:
        raise InputError(
            f"x and y must agree in dimension, data type and device, got {x.shape[1]}, {x.dtype}, {x.device} and "
            f"{y.shape[1]}, {y.dtype}, {y.device}"
        )
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.float(), y.float()
    return x, y
