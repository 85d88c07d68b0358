"""Batch renormalization: training output corrected towards what evaluation will give.

Source: Ioffe (2017), arXiv:1702.03275, algorithm 1, and section 4 for the limits. Deviation: the running statistic is the variance,
as in BatchNorm, not its root, so that state dicts pass between the two.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.nn.ghost_statistics import Ghosts, moments
from batchwright.nn.swap import BatchNorm, swappable


class _BatchRenorm(BatchNorm):
    """What the two share; each adds torch's own check of the number of axes."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup_steps: int = 5000,
        r_steps: int = 40000,
        d_steps: int = 25000,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_int("num_features", num_features, at_least=1)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(num_features, eps, momentum, affine, True, **options)
        self.r_max = r_max if r_max == math.inf else check_number("r_max", r_max, at_least=1.0)
        self.d_max = d_max if d_max == math.inf else check_number("d_max", d_max, at_least=0.0)
        self.warmup_steps = check_int("warmup_steps", warmup_steps, at_least=0)
        self.r_steps = check_int(
            "r_steps", r_steps, at_least=warmup_steps, way_out="the limits widen after the warm-up"
        )
        self.d_steps = check_int(
            "d_steps", d_steps, at_least=warmup_steps, way_out="the limits widen after the warm-up"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``; see the class."""
        self._check_input_dim(x)
        if not self.training:
            return super().forward(x)
        count = math.prod(x.shape[2:]) * len(x)
        if count < 2:
            raise InputError(
                f"x must give at least 2 values a channel in training, got {count}; take a larger batch or call eval()"
            )
        r, d = self._correction(x.detach(), count)
        r, d = r.to(x.dtype), d.to(x.dtype)
        # gamma (r x_hat + d) + beta, as a batch norm with scale gamma r and shift gamma d + beta.
        weight, bias = (r, d) if self.weight is None else (self.weight * r, torch.addcmul(self.bias, self.weight, d))
        return functional.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)

    def limits(self) -> tuple[Tensor, Tensor]:
        """The limits ``r_max`` and ``d_max`` in force at the next step: 1 and 0 in the warm-up, then rising in a straight line."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        steps = self.num_batches_tracked.to(torch.promote_types(self.running_mean.dtype, torch.float32))
        return (
            self._limit(steps, 1.0, self.r_max, self.r_steps),
            self._limit(steps, 0.0, self.d_max, self.d_steps),
        )

    def _limit(self, steps: Tensor, start: float, end: float, end_step: int) -> Tensor:
        if end == math.inf or end_step == self.warmup_steps:
            return torch.where(steps < self.warmup_steps, torch.full_like(steps, start), torch.full_like(steps, end))
        return start + (end - start) * ((steps - self.warmup_steps) / (end_step - self.warmup_steps)).clamp(0.0, 1.0)

    @torch.no_grad()
    def _correction(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """``r`` and ``d`` from the running statistics as they were, which then take in this batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        means, variances = moments(x, Ghosts(num_equal=1, size=len(x), last=0))
        mean, variance = means[0], variances[0]
        sigma = torch.sqrt(self.running_var.to(variance.dtype) + self.eps)
        r_limit, d_limit = self.limits()
        r = torch.sqrt(variance + self.eps) / sigma
        r = torch.minimum(torch.maximum(r, (1 / r_limit).to(r.dtype)), r_limit.to(r.dtype))
        d = (mean - self.running_mean) / sigma
        d = torch.minimum(torch.maximum(d, -d_limit.to(d.dtype)), d_limit.to(d.dtype))
        self.num_batches_tracked.add_(1)
        new: Any = self.momentum
        if new is None:
            new = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), new)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), new)
        return r, d

    def extra_repr(self) -> str:
        """Options, torch's first."""
        return f"{super().extra_repr()}, r_max={self.r_max:g}, d_max={self.d_max:g}"


@swappable
class BatchRenorm1d(_BatchRenorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` whose training output is corrected by its running statistics.

    With batch mean ``m`` and deviation ``s = sqrt(var + eps)``, and running ones ``mu`` and ``sigma``, the output is
    ``weight * (r (x - m) / s + d) + bias``, where ``r = s / sigma`` within ``[1 / r_max, r_max]`` and ``d = (m - mu) / sigma`` within
    ``[-d_max, d_max]`` are constants for the gradient. Where neither limit binds that is the output of evaluation; with ``r_max=1``
    and ``d_max=0`` it is BatchNorm.

    The limits start as BatchNorm's for ``warmup_steps`` training steps and then widen in a straight line, to ``r_max`` at step
    ``r_steps`` and to ``d_max`` at step ``d_steps``; the step is ``num_batches_tracked``. Set all three to 0 to have them at once.

    Args:
        num_features: Channels ``C``.
        eps: Added to the variance.
        momentum: Weight of the new value in the running statistics; the paper asks for a small one. None for the plain average.
        affine: Learn a scale and a shift for each channel.
        r_max: Limit of the correction of the scale, at least 1; may be ``inf``.
        d_max: Limit of the correction of the mean, in deviations; may be ``inf``.
        warmup_steps: Steps as BatchNorm; the paper's number.
        r_steps: Step at which ``r_max`` is reached; the paper's number.
        d_steps: Step at which ``d_max`` is reached; the paper's number.
        device: Where parameters and buffers lie.
        dtype: Of parameters and buffers.

    Raises:
        InputError: If an option breaks a rule, or in training a batch has fewer than two values a channel.
    """


@swappable
class BatchRenorm2d(_BatchRenorm, nn.BatchNorm2d):
    """`BatchRenorm1d` for images, shape ``(B, C, H, W)``."""


RENORMS: tuple[type[BatchNorm], ...] = (BatchRenorm1d, BatchRenorm2d)
