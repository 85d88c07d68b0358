"""Statistics of a ghost batch corrected by a prior: the mixture rule of Kalman normalization, with its gate.

With gain q, prior (m, v) and batch statistics (m̂, v̂): mean ``q m + (1-q) m̂`` and variance ``q v + (1-q) v̂ + q (1-q) (m̂ - m)²``, which
are those of a mixture of the two distributions with weights q and 1 - q.

Source: Wang et al. (2018), *Kalman Normalization*, corrected estimates; the gate stands in the official code alone. Deviation: q is a
constant, so there is no Riccati recursion and this is no Kalman filter but for its name.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from batchwright.nn.channel_state import ChannelState


def fuse(
    means: Float[Tensor, "S C"],
    variances: Float[Tensor, "S C"],
    prior: ChannelState,
    gain: float,
    gate: float | None = None,
) -> tuple[Float[Tensor, "S C"], Float[Tensor, "S C"]]:
    """Correct the statistics of ghost batches by a prior.

    Args:
        means: Mean of each ghost batch and channel.
        variances: Biased variances.
        prior: Of the same shape, or of one row for all ghost batches.
        gain: Weight q of the prior, in [0, 1]; 0 leaves the statistics as they are, 1 takes the prior alone.
        gate: The prior is used where `gate_is_open`; None: always.

    Returns:
        Corrected means and variances, ``(S, C)``; differentiable in all four.
    """
    prior = prior.checked(*means.shape)
    prior_mean, prior_var = prior.mean.to(means.dtype), prior.var.to(means.dtype)
    if gate is not None and gain > 0:
        # A closed gate takes the batch's own statistics for the prior: no branch on the device's numbers, and no 0 times inf.
        is_open = gate_is_open(variances, prior_var, gate)
        prior_mean = torch.where(is_open, prior_mean, means)
        prior_var = torch.where(is_open, prior_var, variances)
    fused_mean = torch.lerp(means, prior_mean.expand_as(means), gain)
    fused_var = torch.lerp(variances, prior_var.expand_as(variances), gain)
    return fused_mean, fused_var + gain * (1 - gain) * (means - prior_mean).square()


def gate_is_open(variances: Float[Tensor, "S C"], prior_var: Float[Tensor, "R C"], gate: float) -> Bool[Tensor, ""]:
    """Whether the mean over ghost batches and channels of prior over batch variance is below ``gate``; closed where it is NaN."""
    with torch.no_grad():
        return (prior_var / variances).mean() < gate
