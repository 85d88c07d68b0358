"""Kalman normalization: the statistics of a tiny batch corrected by what the layers before it let expect.

Source: Wang et al. (2018), *Kalman Normalization: Normalizing Internal Representations Across Network Layers*, NeurIPS, and its
official code. Deviations, each with the official form as an option: the prior is that of what enters the ReLU (``prior``), it is
computed in closed form (`state_rules`), and running statistics are those of all ghosts (``running``).
"""

import math
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.nn.channel_state import ChannelState
from batchwright.nn.ghost_statistics import Ghosts, Shares, combine, moments, shares
from batchwright.nn.kalman_function import normalise_corrected
from batchwright.nn.kalman_fusion import fuse
from batchwright.nn.state_rules import affine_state
from batchwright.nn.swap import BatchNorm, swappable

PRIORS = ("consistent", "raw")
RUNNING = ("all", "first")


@runtime_checkable
class Source(Protocol):
    """Where a norm inside a converted model gets its prior, and whom it tells what it found."""

    def prior(self) -> ChannelState | None:
        """The prior in this pass, if there is one."""

    def report(self, corrected: ChannelState) -> None:
        """Corrected statistics of this pass."""


class _KalmanNorm(BatchNorm):
    """What the two share; each adds torch's own check of the number of axes."""

    # Where the prior comes from when none is given; `convert` sets it. No part of the state dict.
    source: "Source | None" = None

    def __init__(
        self,
        num_features: int,
        gain: float = 0.9,
        ghost_size: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        gate: float | None = 100.0,
        prior: str = "consistent",
        running: str = "all",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_int("num_features", num_features, at_least=1)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.gain = check_number("gain", gain, at_least=0.0, at_most=1.0)
        self.ghost_size = None if ghost_size is None else check_int("ghost_size", ghost_size, at_least=1)
        self.gate = None if gate is None else check_number("gate", gate, above=0.0)
        self.prior = check_choice("prior", prior, PRIORS)
        self.running = check_choice("running", running, RUNNING)

    def forward(self, x: Tensor, prior: ChannelState | None = None) -> Tensor:
        """Normalise ``x``; see the class."""
        if not self.training and self.running_mean is not None:
            return super().forward(x)
        return self.normalize(x, prior)[0]

    def normalize(self, x: Tensor, prior: ChannelState | None = None) -> tuple[Tensor, ChannelState]:
        """Normalise ``x`` and say what is then known of the result.

        Args:
            x: ``(B, C, ...)``.
            prior: What was known of ``x`` before it was seen; None takes that of `convert`, or else the batch's statistics alone.

        Returns:
            The result, and its state: with ``prior="consistent"`` mean ``bias`` and variance ``weight²``, one row; with ``"raw"`` the
            corrected statistics of ``x`` itself, a row a ghost (in evaluation those of the running statistics).
        """
        self._check_input_dim(x)
        if not self.training and self.running_mean is not None and self.running_var is not None:
            known = ChannelState(mean=self.running_mean[None], var=self.running_var[None])
            return super().forward(x), self._outgoing(known)
        values_per_example = math.prod(x.shape[2:])
        ghosts = Ghosts.of_batch(len(x), self.ghost_size or len(x), values_per_example)
        if prior is None and self.source is not None:
            prior = self.source.prior()
        y, means, variances = normalise_corrected(
            x, self.weight, self.bias, prior, self.gain, self.gate, ghosts, self.eps
        )
        if self.training and self.running_mean is not None:
            self._update_running(means.detach(), variances.detach(), ghosts, values_per_example)
        corrected = ChannelState(mean=means, var=variances)
        if self.source is not None:
            self.source.report(corrected)
        return y, self._outgoing(corrected)

    def _outgoing(self, corrected: ChannelState) -> ChannelState:
        return corrected if self.prior == "raw" else affine_state(self)

    @torch.no_grad()
    def corrected(self, x: Float[Tensor, "B C *S"]) -> tuple[Float[Tensor, "S C"], Float[Tensor, "S C"], list[int]]:
        """Corrected mean and variance of each ghost of ``x`` in this pass, and the values of one channel in each."""
        values_per_example = math.prod(x.shape[2:])
        ghosts = Ghosts.of_batch(len(x), self.ghost_size or len(x), values_per_example)
        means, variances = moments(x, ghosts)
        prior = None if self.source is None else self.source.prior()
        if prior is not None:
            means, variances = fuse(means, variances, prior, self.gain, self.gate)
        return means, variances, ghosts.counts(values_per_example)

    @torch.no_grad()
    def _update_running(
        self, means: Float[Tensor, "S C"], variances: Float[Tensor, "S C"], ghosts: Ghosts, values_per_example: int
    ) -> None:
        """One update a batch, with the corrected statistics, since evaluation has to normalise as training does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Without a momentum: the plain average over batches, without waiting for the device to read how many.
        new: Any = self.momentum
        if new is None:
            new = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
        if self.running == "first":
            mean, variance = means[0], variances[0]
        else:
            make = _shares.__wrapped__ if torch.compiler.is_compiling() else _shares
            mean, variance = combine(means, variances, make(ghosts, values_per_example, means.dtype, means.device))
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(value.to(running.dtype), new)

    def extra_repr(self) -> str:
        """Options, torch's first."""
        return (
            f"{super().extra_repr()}, gain={self.gain:g}, ghost_size={self.ghost_size}, gate={self.gate}, "
            f"prior={self.prior!r}, running={self.running!r}"
        )


@lru_cache(maxsize=256)
def _shares(ghosts: Ghosts, values_per_example: int, dtype: torch.dtype, device: torch.device) -> Shares:
    """Ghosts by their sizes, with the variance between them; made once for a kind of batch, since a copy to a GPU waits."""
    counts = ghosts.counts(values_per_example)
    weights = [float(count) for count in counts]
    return shares(counts, weights, between_ghosts=True, dtype=dtype, device=device)


@swappable
class KalmanNorm1d(_KalmanNorm, nn.BatchNorm1d):
    """Batch normalization for tiny batches: the statistics of each ghost are corrected by a prior from the layers before.

    In training the batch is cut into ghosts as by `GhostBatchNorm2d`, and each is normalised by ``q`` times the prior plus ``1 - q``
    times its own statistics (`kalman_fusion.fuse`), ``q`` being the gain. The prior is mean and variance of each channel as
    the weights of the layers before let expect them; gradients flow into these weights. Without a prior, as in the first layer, this is
    ghost batch norm; evaluation is BatchNorm's in any case, and state dicts load from BatchNorm and the other way round.

    The prior's variance is a worse estimate than the batch's own (docs/nn.md); what helps is that it carries none of its noise.

    Args:
        num_features: Channels ``C``.
        gain: Weight ``q`` of the prior: 0.9 in the official code for ghosts of two examples, 0.05 for 128.
        ghost_size: Examples in a ghost; None: the whole batch is one.
        eps: Added to the corrected variance.
        momentum: Weight of the new value in the running statistics; None for the plain average over batches.
        affine: Learn a scale and a shift for each channel.
        track_running_stats: Keep running statistics, of the corrected statistics; without them evaluation uses its own batch.
        gate: The prior is left out for a batch in which the mean of its variance over the batch's is not below this; None: never.
        prior: What this layer tells the next: ``consistent``, mean ``bias`` and variance ``weight²``, which is what enters the ReLU;
            ``raw``, the corrected statistics of its input, as in the official code.
        running: ``all``: all ghosts, with the variance between their means (the law of total variance); ``first``: the first ghost
            alone, as in the official code.
        device: Where parameters and buffers lie.
        dtype: Of parameters and buffers.

    Raises:
        InputError: If an option breaks a rule, a prior has another shape, or in training a ghost has fewer than two values a channel.

    Example:
        >>> layer = KalmanNorm1d(1, gain=0.5, ghost_size=2, eps=0.0)
        >>> prior = ChannelState(mean=torch.tensor([[2.0]]), var=torch.tensor([[1.0]]))
        >>> layer(torch.tensor([[1.0], [3.0]]), prior).flatten().tolist()
        [-1.0, 1.0]
    """


@swappable
class KalmanNorm2d(_KalmanNorm, nn.BatchNorm2d):
    """`KalmanNorm1d` for images, shape ``(B, C, H, W)``."""


KALMAN_NORMS: tuple[type[BatchNorm], ...] = (KalmanNorm1d, KalmanNorm2d)
