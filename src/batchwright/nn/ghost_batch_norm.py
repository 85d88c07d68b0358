"""Batch normalization whose statistics are those of small parts of a large batch.

Source: Hoffer et al. (2017), arXiv:1705.08741, section 4 and algorithm 1. Deviation: the running weights are those of one
BatchNorm update a ghost (`ghost_statistics`).
"""

import math
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.checks import check_choice, check_int
from batchwright.nn.ghost_function import normalise
from batchwright.nn.ghost_statistics import Ghosts, Shares, combine, sequential_weights, shares
from batchwright.nn.swap import BatchNorm, swappable

RUNNING = ("ghosts", "batch")


class _GhostBatchNorm(BatchNorm):
    """What the three share; each adds torch's own check of the number of axes."""

    def __init__(
        self,
        num_features: int,
        ghost_size: int = 32,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        running: str = "ghosts",
        between_ghosts: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_int("num_features", num_features, at_least=1)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.ghost_size = check_int("ghost_size", ghost_size, at_least=1)
        self.running = check_choice("running", running, RUNNING)
        self.between_ghosts = between_ghosts

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``; see the class."""
        self._check_input_dim(x)
        if not self.training:
            return super().forward(x)
        values_per_example = math.prod(x.shape[2:])
        ghosts = Ghosts.of_batch(len(x), self.ghost_size, values_per_example)
        if ghosts.num == 1:
            return super().forward(x)
        out, means, variances = normalise(x, self.weight, self.bias, ghosts, self.eps)
        if self.running_mean is not None:
            self._update_running(means, variances, ghosts, values_per_example)
        return out

    @torch.no_grad()
    def _update_running(
        self, means: Float[Tensor, "K C"], variances: Float[Tensor, "K C"], ghosts: Ghosts, values_per_example: int
    ) -> None:
        """One update a ghost, in order, or one a batch; the weights of old and new sum to one."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        num_updates = ghosts.num if self.running == "ghosts" else 1
        self.num_batches_tracked.add_(num_updates)
        make = _shares.__wrapped__ if torch.compiler.is_compiling() else _shares
        parts = make(
            ghosts, values_per_example, self.running, self.between_ghosts, self.momentum, means.dtype, means.device
        )
        new: Any
        if self.momentum is None:
            # A plain average over all updates so far, without waiting for the device to read how many.
            new = num_updates / self.num_batches_tracked.to(self.running_mean.dtype)
        else:
            new = parts.total if self.running == "ghosts" else self.momentum
        for running, value in zip((self.running_mean, self.running_var), combine(means, variances, parts), strict=True):
            running.lerp_(value.to(running.dtype), new)

    def extra_repr(self) -> str:
        """Options, torch's first."""
        return (
            f"{super().extra_repr()}, ghost_size={self.ghost_size}, running={self.running!r}, "
            f"between_ghosts={self.between_ghosts}"
        )


@lru_cache(maxsize=64)
def _shares(
    ghosts: Ghosts,
    values_per_example: int,
    running: str,
    between_ghosts: bool,
    momentum: float | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Shares:
    counts = ghosts.counts(values_per_example)
    if running == "batch":
        weights = [float(count) for count in counts]
    elif momentum is None:
        weights = [1.0] * len(counts)
    else:
        weights = sequential_weights(len(counts), momentum)
    return shares(counts, weights, between_ghosts=between_ghosts, dtype=dtype, device=device)


@swappable
class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` whose training statistics are those of ghosts of ``ghost_size`` examples.

    In training the batch is cut into ghosts of consecutive examples, and each is normalised by its own mean and biased variance,
    as if it had come alone; scale and shift are shared. Evaluation, and whatever else the options say, is BatchNorm's: a
    layer is loaded from a BatchNorm's state dict and the other way round.

    Which ghosts: ``B // ghost_size`` of ``ghost_size`` examples, then one of the ``B % ghost_size`` that are left; where that one
    would have a single value a channel, it joins the ghost before it. A batch smaller than ``ghost_size`` is one ghost.

    Under data parallelism each rank cuts its own part of the batch, so nothing is sent between ranks; where ``ghost_size`` divides
    that part, the outputs are those of one process with the whole batch.

    Args:
        num_features: Channels ``C``.
        ghost_size: Examples in a ghost.
        eps: Added to the variance.
        momentum: Weight ``m`` of the new value in one update of the running statistics; None for the plain average over updates.
        affine: Learn a scale and a shift for each channel.
        track_running_stats: Keep running statistics; without them evaluation uses the statistics of its whole batch.
        running: ``ghosts``: one update a ghost, in their order, so ghost ``l`` of ``K`` has weight ``m (1 - m)**(K - l)`` and the
            old value ``(1 - m)**K``; equal to ``K`` BatchNorm steps. ``batch``: one update a batch, weight ``m``, the ghosts
            weighted by their sizes.
        between_ghosts: Add the variance of the ghosts' means to the running variance (the law of total variance), which is then
            that of examples from different ghosts too. With ``running="batch"`` the running statistics are exactly BatchNorm's.
        device: Where parameters and buffers lie.
        dtype: Of parameters and buffers.

    Raises:
        InputError: If an option breaks a rule, or in training a ghost has fewer than two values a channel.

    Example:
        >>> layer = GhostBatchNorm1d(1, ghost_size=2, eps=0.0)
        >>> layer(torch.tensor([[1.0], [3.0], [10.0], [30.0]])).flatten().tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """


@swappable
class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    """`GhostBatchNorm1d` for images, shape ``(B, C, H, W)``."""


@swappable
class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    """`GhostBatchNorm1d` for volumes, shape ``(B, C, D, H, W)``."""


GHOST_NORMS: tuple[type[BatchNorm], ...] = (GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d)
