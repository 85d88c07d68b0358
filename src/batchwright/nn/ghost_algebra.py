"""The algebra on one number a ghost and channel that all forms of ghost batch norm share."""

import torch
from jaxtyping import Float
from torch import Tensor


def scale_and_shift(
    means: Float[Tensor, "K C"],
    variances: Float[Tensor, "K C"],
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    eps: float,
) -> tuple[Float[Tensor, "K C"], Float[Tensor, "K C"]]:
    """``a, b`` such that ``a x + b`` is ``x`` normalised, scaled by ``weight`` and shifted by ``bias``."""
    scale = torch.rsqrt(variances + eps)
    if weight is not None:
        scale = scale * weight
    shift = -means * scale if bias is None else torch.addcmul(bias, means, scale, value=-1)
    return scale, shift


def input_gradient(
    grads: Float[Tensor, "K C"],
    products: Float[Tensor, "K C"],
    means: Float[Tensor, "K C"],
    variances: Float[Tensor, "K C"],
    weight: Float[Tensor, " C"] | None,
    eps: float,
    inverse_counts: Float[Tensor, "#K 1"],
) -> tuple[Float[Tensor, "K C"], Float[Tensor, "K C"], Float[Tensor, "K C"], Float[Tensor, "K C"]]:
    """``a, b, c`` such that ``a grad + b x + c`` is the gradient for ``x``, and the sum of ``grad`` times the normalised ``x``.

    Args:
        grads: Sum over a ghost of the gradient for the output.
        products: Sum over a ghost of that gradient times ``x``.
        means: Of ``x``.
        variances: Of ``x``, biased.
        weight: Scale; None for 1.
        eps: Added to the variance.
        inverse_counts: One over the values a channel in a ghost.
    """
    inverse = torch.rsqrt(variances + eps)
    scale = inverse if weight is None else inverse * weight
    normalised = torch.addcmul(products, means, grads, value=-1).mul_(inverse)
    factor = scale * inverse_counts
    slope = (factor * inverse).mul_(normalised).neg_()
    shift = torch.addcmul(slope * means, factor, grads).neg_()
    return scale, slope, shift, normalised
