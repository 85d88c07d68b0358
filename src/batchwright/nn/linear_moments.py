"""Mean and variance of the outputs of a linear layer or a convolution, from those of its input channels.

``mean_o = Σ W m + b`` and ``var_o = Σ W² v`` over channels and taps, which are taken as independent. That is exact for independent
pixels away from the border; with padding the paper's samples see zeros beyond the border, and this form does not.

Source: Wang et al. (2018): A^k is the layer's own convolution, applied to random fields; here its first two moments in closed form.
Gradients flow into the weights, as in the official code.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.nn.channel_state import ChannelState

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def linear_moments(
    state: ChannelState, weight: Float[Tensor, "out inp *taps"], bias: Float[Tensor, " out"] | None, groups: int = 1
) -> ChannelState:
    """State after ``conv(x, weight) + bias`` or ``x @ weight.T + bias``.

    Args:
        state: Of the input, ``inp * groups`` channels.
        weight: As ``torch.nn.functional.conv2d`` or ``linear`` takes it.
        bias: One a channel of the output.
        groups: As of the convolution.

    Raises:
        InputError: If the state has another number of channels.
    """
    taps = weight.flatten(2) if weight.ndim > 2 else weight.unsqueeze(2)
    per_group = taps.shape[1]
    if state.num_channels != per_group * groups:
        raise InputError(
            f"state must have {per_group * groups} channels, those of the layer's input, got {state.num_channels}"
        )
    return _apply(state, taps.sum(2), taps.square().sum(2), bias, groups)


def transposed_moments(state: ChannelState, layer: Transposed) -> ChannelState:
    """State after a transposed convolution: the average over its output pixels, which see taps of their own by their place.

    Raises:
        InputError: If it is dilated; its taps then meet the pixels in another pattern.
    """
    if any(each != 1 for each in layer.dilation):
        raise InputError(f"a transposed convolution must have dilation 1 to be followed, got {layer.dilation}")
    weight = layer.weight  # (in, out / groups, *taps)
    groups, per_in = layer.groups, weight.shape[0] // layer.groups
    ordered = weight.unflatten(0, (groups, per_in)).transpose(1, 2).flatten(0, 1)  # (out, in / groups, *taps)
    # Output pixels of one residue modulo the stride meet the taps of that residue.
    parts = [ordered]
    for axis, stride in enumerate(layer.stride, start=2):
        parts = [
            part.index_select(axis, torch.arange(offset, part.shape[axis], stride, device=part.device))
            for part in parts
            for offset in range(stride)
        ]
    found = [
        _apply(state, part.flatten(2).sum(2), part.flatten(2).square().sum(2), layer.bias, groups) for part in parts
    ]
    means = torch.stack([each.mean for each in found])
    variances = torch.stack([each.var for each in found])
    return ChannelState(mean=means.mean(0), var=variances.mean(0) + means.var(0, correction=0))


def _apply(state: ChannelState, sums: Tensor, squares: Tensor, bias: Tensor | None, groups: int) -> ChannelState:
    """The two matrix products; ``sums`` and ``squares`` are ``(out, in / groups)``."""
    if groups == 1:
        mean, var = state.mean @ sums.t(), state.var @ squares.t()
    else:
        rows, wide = state.num_ghosts, sums.shape[1]
        split = (groups, sums.shape[0] // groups, wide)
        mean, var = (
            torch.einsum("sgi,goi->sgo", values.reshape(rows, groups, wide), matrix.reshape(split)).flatten(1)
            for values, matrix in ((state.mean, sums), (state.var, squares))
        )
    return ChannelState(mean=mean if bias is None else mean + bias, var=var)
