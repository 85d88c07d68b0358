"""How the state of a tensor changes as the tensor goes through a layer or a function: one rule each, by name.

A rule takes the states of its inputs, the module if there is one, and plain options, and gives the state of the output. What has no
rule is not followed, and the next norm starts anew.

Source: Wang et al. (2018) and its official code for ReLU, convolution, addition, zero-padded channels and average pooling (which leaves
the variance as it is); the other rules are of the same kind.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from batchwright.core.errors import InputError
from batchwright.nn.channel_state import (
    ChannelState,
    add_states,
    concatenate_states,
    multiply_states,
    pad_channels,
    scale_state,
)
from batchwright.nn.gaussian_moments import clamp_moments, leaky_relu_moments, pointwise_moments, relu_moments
from batchwright.nn.linear_moments import linear_moments, transposed_moments

Options = Mapping[str, Any]
Rule = Callable[[Sequence[ChannelState], "nn.Module | None", Options], ChannelState]

# Smooth functions of single numbers, by quadrature.
POINTWISE: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "elu": functional.elu,
    "selu": functional.selu,
    "abs": torch.abs,
}


def follow_rule(
    name: str, states: Sequence[ChannelState], module: nn.Module | None = None, options: Options | None = None
) -> ChannelState:
    """The state of the output.

    Args:
        name: In `RULES`.
        states: Of the inputs, in their order.
        module: The layer, where the rule is one of a layer with parameters or options of its own.
        options: Plain values that the rule needs.

    Raises:
        InputError: If the states do not fit one another or the layer.
    """
    return RULES[name](states, module, options or {})


def layer_input(state: ChannelState, num_features: int) -> ChannelState:
    """The state with as many channels as a linear layer after flattening asks for: each channel once a pixel."""
    if num_features % state.num_channels:
        raise InputError(
            f"a flattened state must divide the {num_features} inputs of the layer, got {state.num_channels} channels"
        )
    return state.repeated(num_features // state.num_channels)


def _same(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    return states[0]


def _relu(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    if states[0].before is not None:  # a ReLU of a ReLU
        return states[0]
    mean, var = relu_moments(states[0].mean, states[0].var)
    return ChannelState(mean=mean, var=var, before=states[0])


def _clamp(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    mean, var = clamp_moments(states[0].mean, states[0].var, float(options.get("top", 6.0)))
    return ChannelState(mean=mean, var=var)


def _leaky_relu(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    slope = float(options.get("slope", 0.01))
    if isinstance(module, nn.LeakyReLU):
        slope = module.negative_slope
    mean, var = leaky_relu_moments(states[0].mean, states[0].var, slope)
    return ChannelState(mean=mean, var=var)


def _pointwise(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    function = POINTWISE[str(options["function"])] if module is None else module.forward
    mean, var = pointwise_moments(function, states[0].mean, states[0].var)
    return ChannelState(mean=mean, var=var)


def _layer(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    assert isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    state = layer_input(states[0], module.in_features) if isinstance(module, nn.Linear) else states[0]
    bias = None if module.bias is None else module.bias.to(state.mean.dtype)
    return linear_moments(state, module.weight.to(state.mean.dtype), bias, groups)


def _transposed(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    return transposed_moments(states[0], module)


def _dropout(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    """Kept with probability 1 - p and divided by it: the mean stays, the second moment is divided by 1 - p."""
    rate = float(options.get("rate", 0.5)) if module is None else float(getattr(module, "p", 0.5))
    active = module.training if module is not None else bool(options.get("training", True))
    if not active or rate in (0.0, 1.0):
        return states[0]
    mean = states[0].mean
    return ChannelState(mean=mean, var=(states[0].var + rate * mean.square()) / (1 - rate))


def _norm(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    """What leaves a batch norm: mean ``bias``, variance ``weight²``."""
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    return affine_state(module)


def affine_state(module: nn.modules.batchnorm._BatchNorm) -> ChannelState:
    """State of what leaves a batch norm, were it normalised exactly; one row, at least float32."""
    held = [each for each in (module.weight, module.bias, module.running_mean) if each is not None]
    like = held[0] if held else torch.zeros(module.num_features)
    like = like.detach().to(torch.promote_types(like.dtype, torch.float32))
    mean = torch.zeros_like(like) if module.bias is None else module.bias.to(like.dtype)
    var = torch.ones_like(like) if module.weight is None else module.weight.to(like.dtype).square()
    return ChannelState(mean=mean[None], var=var[None])


def _add(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    return add_states(states[0], states[1])


def _subtract(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    return add_states(states[0], scale_state(states[1], -1.0))


def _multiply(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    return multiply_states(states[0], states[1])


def _scale(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    return scale_state(states[0], float(options.get("factor", 1.0)), float(options.get("offset", 0.0)))


def _concatenate(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    return concatenate_states(states)


def _pad(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    return pad_channels(states[0], int(options["before"]), int(options["after"]))


def _channels(states: Sequence[ChannelState], module: nn.Module | None, options: Options) -> ChannelState:
    chosen = slice(options["start"], options["stop"], options["step"])
    return ChannelState(mean=states[0].mean[:, chosen], var=states[0].var[:, chosen])


RULES: Mapping[str, Rule] = {
    "add": _add,
    "channels": _channels,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "dropout": _dropout,
    "layer": _layer,
    "leaky_relu": _leaky_relu,
    "multiply": _multiply,
    "norm": _norm,
    "pad": _pad,
    "pointwise": _pointwise,
    "relu": _relu,
    "same": _same,
    "scale": _scale,
    "subtract": _subtract,
    "transposed": _transposed,
}
