"""What Kalman normalization knows of a tensor before it has seen it: mean and variance of each channel, for each ghost batch.

The state travels through the network beside the data. A state of one row holds for every ghost batch. Channels are the second axis of
both tensors, so padding and concatenation act on channels alone; public code that keeps ghosts and channels in one long
vector pads that vector at its two ends and mixes them up.

Source: Wang et al. (2018), *Kalman Normalization*, residual rule m ← m + m3, v ← v + v3 (independence assumed), zero-padded shortcuts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelState:
    """Mean and variance of each channel of a tensor ``(B, C, ...)``, a row a ghost batch.

    Attributes:
        mean: ``(S, C)``; one row holds for all ghost batches.
        var: Variance over examples and pixels, ``(S, C)``.
        before: State of the Gaussian whose ReLU this is, for Monte Carlo; None where it is none.

    Raises:
        InputError: If the two are not of one shape ``(S, C)``.
    """

    mean: Float[Tensor, "..."]
    var: Float[Tensor, "..."]
    before: "ChannelState | None" = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or self.mean.shape != self.var.shape:
            raise InputError(
                "mean and var must be of one shape (ghost batches, channels), got "
                f"{tuple(self.mean.shape)} and {tuple(self.var.shape)}; a state of all ghost batches has one row"
            )

    @property
    def num_ghosts(self) -> int:
        """Rows ``S``."""
        return self.mean.shape[0]

    @property
    def num_channels(self) -> int:
        """Columns ``C``."""
        return self.mean.shape[1]

    def checked(self, num_ghosts: int, num_channels: int) -> "ChannelState":
        """This state, if it may be the prior of ``num_ghosts`` ghost batches of ``num_channels`` channels.

        Raises:
            InputError: If its shape is neither ``(num_ghosts, num_channels)`` nor ``(1, num_channels)``.
        """
        if self.num_channels != num_channels or self.num_ghosts not in (1, num_ghosts):
            raise InputError(
                f"prior must be of shape ({num_ghosts}, {num_channels}) or (1, {num_channels}), one row a ghost batch and one column "
                f"a channel, got ({self.num_ghosts}, {self.num_channels}); use the same ghost_size in every layer of a chain"
            )
        return self

    def repeated(self, times: int) -> "ChannelState":
        """Each channel ``times`` times in a row, as after flattening an image of as many pixels."""
        check_int("times", times, at_least=1)
        if times == 1:
            return self
        return ChannelState(mean=self.mean.repeat_interleave(times, 1), var=self.var.repeat_interleave(times, 1))


def add_states(first: ChannelState, second: ChannelState) -> ChannelState:
    """State of a sum, as at the end of a residual block; the two are taken as independent.

    Raises:
        InputError: If their numbers of channels or of ghost batches differ.
    """
    _check_same(first, second, channels=True)
    return ChannelState(mean=first.mean + second.mean, var=first.var + second.var)


def multiply_states(first: ChannelState, second: ChannelState) -> ChannelState:
    """State of a product of independent factors, as of a squeeze-and-excitation gate."""
    _check_same(first, second, channels=True)
    var = first.var * second.var + first.var * second.mean.square() + second.var * first.mean.square()
    return ChannelState(mean=first.mean * second.mean, var=var)


def scale_state(state: ChannelState, factor: float = 1.0, offset: float = 0.0) -> ChannelState:
    """State of ``factor * x + offset``."""
    return ChannelState(mean=state.mean * factor + offset, var=state.var * factor**2)


def concatenate_states(states: Sequence[ChannelState]) -> ChannelState:
    """State of tensors concatenated along their channels, as in DenseNet and U-Net.

    Raises:
        InputError: If there are none, or their numbers of ghost batches differ.
    """
    if not states:
        raise InputError("states must hold at least one state, got none")
    for state in states[1:]:
        _check_same(states[0], state, channels=False)
    rows = max(state.num_ghosts for state in states)
    return ChannelState(
        mean=torch.cat([state.mean.expand(rows, -1) for state in states], dim=1),
        var=torch.cat([state.var.expand(rows, -1) for state in states], dim=1),
    )


def pad_channels(state: ChannelState, before: int, after: int) -> ChannelState:
    """State with ``before`` and ``after`` channels of zeros at the ends of every ghost batch, as of a shortcut without parameters.

    Example:
        >>> state = ChannelState(mean=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), var=torch.ones(2, 2))
        >>> pad_channels(state, 1, 1).mean.tolist()
        [[0.0, 1.0, 2.0, 0.0], [0.0, 3.0, 4.0, 0.0]]
    """
    pad = torch.nn.functional.pad
    return ChannelState(mean=pad(state.mean, (before, after)), var=pad(state.var, (before, after)))


def _check_same(first: ChannelState, second: ChannelState, *, channels: bool) -> None:
    rows = {first.num_ghosts, second.num_ghosts}
    if (channels and first.num_channels != second.num_channels) or (len(rows) > 1 and 1 not in rows):
        raise InputError(
            "states must have the same ghost batches" + (" and channels" if channels else "") + f", got "
            f"({first.num_ghosts}, {first.num_channels}) and ({second.num_ghosts}, {second.num_channels}); "
            "use the same ghost_size in every layer"
        )
