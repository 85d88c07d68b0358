"""Gradient noise scale in the dual norm of an optimizer: l1 for sign methods, nuclear for Muon.

Source: Naganuma et al. (2026), arXiv:2602.03001: the noise that steepest descent in a norm feels is measured in the dual norm.
Deviations: from micro-batches on one device instead of ranks; convolutions count, flattened to matrices; both norms are debiased.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss
from batchwright.core.preserve import preserved
from batchwright.core.statistics import jackknife_covariance, ratio_interval
from batchwright.core.vectors import trainable
from batchwright.measure.noise_micro_batches import micro_batch_gradients
from batchwright.measure.noise_sums import Array, BatchSums, BlockSums

NORMS = ("l1", "nuclear")


@dataclass(frozen=True, kw_only=True, slots=True)
class DualNoiseScale:
    """Noise scale in a dual norm, with its interval and the two norms it is made of.

    Attributes:
        value: ``(noise_norm / grad_norm)^2``, in examples; ``inf`` when ``grad_norm <= 0``.
        low: Lower end of the interval.
        high: Upper end; ``inf`` when the gradient is not resolved from its noise.
        noise_norm: Dual norm of the standard deviation of a per-example gradient.
        grad_norm: Dual norm of the true gradient.
        norm: ``l1`` or ``nuclear``.
        num_examples: Examples measured.
        num_batches: Batches measured.
        level: Nominal coverage of the interval.
    """

    value: float
    low: float
    high: float
    noise_norm: float
    grad_norm: float
    norm: str
    num_examples: int
    num_batches: int
    level: float

    @property
    def resolved(self) -> bool:
        """Whether the interval is bounded on both sides."""
        return math.isfinite(self.high)


def dual_noise_scale(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    norm: str,
    *,
    num_micro_batches: int = 2,
    level: float = 0.95,
) -> DualNoiseScale:
    """Estimate the noise scale at the model's present parameters in the norm that an optimizer lives in.

    With ``V`` the covariance of a per-example gradient, ``l1`` has ``noise_norm = sum_i sqrt(V_ii)`` and ``grad_norm = sum_i |G_i|``.
    ``nuclear`` sums over the parameters of two or more axes, each as a matrix of its first axis by the rest: ``noise_norm =
    tr sqrt(E[(g - G)(g - G)^T])``, over the shorter side, and ``grad_norm`` is the nuclear norm of ``G``. By Jensen's inequality the
    mean gradient of ``B`` examples is on average at most ``noise_norm / sqrt(B)`` from ``G`` in that norm, so ``value`` is the
    batch size at which that bound is as large as the gradient.

    Second moments are unbiased; the root pulls ``noise_norm`` down and the noise left in the mean gradient pushes ``grad_norm`` up.
    The jackknife over blocks of batches removes both to first order in the number of examples. Where entries, or singular
    values, of ``G`` lie below the noise of their mean, ``grad_norm`` stays too large and ``value`` too small:
    ``high`` therefore also holds the case that all of that noise, ``noise_norm / sqrt(N)``, is in it.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: Independent batches of at least ``num_micro_batches`` examples; one at a time is held.
        norm: ``l1`` or ``nuclear``.
        num_micro_batches: Parts of each batch, as equal as its size allows.
        level: Nominal coverage.

    Raises:
        InputError: If there are too few batches, or no parameter is a matrix for ``nuclear``.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> batches = [torch.randn(8, 2) for _ in range(20)]
        >>> dual_noise_scale(model, lambda m, x: m(x).squeeze(1).square(), batches, "nuclear").num_examples
        160
    """
    check_choice("norm", norm, NORMS)
    check_int("num_micro_batches", num_micro_batches, at_least=1)
    check_number("level", level, above=0.0, below=1.0)
    chosen = [norm == "l1" or parameter.ndim > 1 for parameter in trainable(model)]
    if not any(chosen):
        raise InputError(
            "model must have a trainable parameter of two or more axes for norm='nuclear', got none; use norm='l1'"
        )
    kept = [parameter for parameter, wanted in zip(trainable(model), chosen, strict=True) if wanted]
    blocks = BlockSums(kept, copies=4)  # two tensors, in float64
    with preserved(model):
        for batch in batches:
            blocks.add(_batch_sums(model, loss, batch, num_micro_batches, chosen, norm))
    return _estimate(blocks, norm, level)


def _batch_sums(
    model: nn.Module, loss: Loss, batch: Batch, num_micro_batches: int, chosen: list[bool], norm: str
) -> BatchSums:
    """Gradient sums, and behind them the second moments ``sum_j n_j g_j g_j^T`` (its diagonal for l1)."""
    sums: list[Tensor] = []
    num_parts = 0
    for gradients, num_examples in micro_batch_gradients(model, loss, batch, num_micro_batches):
        parts = [gradient for gradient, wanted in zip(gradients, chosen, strict=True) if wanted]
        parts = [part.double() if norm == "l1" else _matrix(part).double() for part in parts]
        tensors = [*parts, *(_second_moment(part, norm) / num_examples for part in parts)]
        if sums:
            torch._foreach_add_(sums, tensors)
        else:
            sums = tensors
        num_parts += 1
    nothing = torch.zeros(1, dtype=torch.float64)
    return BatchSums(total=sums, weighted=nothing, num_parts=num_parts, num_examples=batch_length(batch))


def _matrix(gradient: Tensor) -> Tensor:
    """The gradient as a matrix of its first axis by the rest, lying on its longer side."""
    matrix = gradient.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _second_moment(part: Tensor, norm: str) -> Tensor:
    return part.square() if norm == "l1" else part @ part.T


def _estimate(blocks: BlockSums, norm: str, level: float) -> DualNoiseScale:
    blocks.check_enough()
    whole, num_blocks = blocks.whole(), len(blocks.totals)
    num_parts, num_examples = sum(blocks.num_parts), sum(blocks.num_examples)
    plain = _norms(whole, num_parts, num_examples, norm)
    left_out = np.stack(
        [
            _norms(
                [all_ - part for all_, part in zip(whole, total, strict=True)], num_parts - m, num_examples - n, norm
            )
            for total, m, n in zip(blocks.totals, blocks.num_parts, blocks.num_examples, strict=True)
        ]
    )
    noise_norm, grad_norm = (float(each) for each in num_blocks * plain - (num_blocks - 1) * left_out.mean(axis=0))
    root = ratio_interval(noise_norm, grad_norm, jackknife_covariance(left_out), dof=num_blocks - 1, level=level)
    # The norm of the mean gradient is too large by at most the norm of its own noise.
    least = float(plain[1]) - noise_norm / num_examples**0.5
    high = max(root.high, noise_norm / least if least > 0 else math.inf)
    return DualNoiseScale(
        value=root.value**2,
        low=root.low**2,
        high=high**2,
        noise_norm=noise_norm,
        grad_norm=grad_norm,
        norm=norm,
        num_examples=num_examples,
        num_batches=blocks.num_batches,
        level=level,
    )


def _norms(sums: list[Tensor], num_parts: int, num_examples: int, norm: str) -> Array:
    """Plain estimates of ``noise_norm`` and ``grad_norm`` from gradient sums and second moments."""
    half = len(sums) // 2
    found = []
    for total, moment in zip(sums[:half], sums[half:], strict=True):
        covariance = (moment - _second_moment(total, norm) / num_examples) / (num_parts - 1)
        if norm == "l1":
            found.append(torch.stack([covariance.clamp(min=0).sqrt().sum(), total.abs().sum() / num_examples]))
        else:
            variances = torch.linalg.eigvalsh(covariance)
            singular = torch.linalg.svdvals(total) / num_examples
            found.append(torch.stack([variances.clamp(min=0).sqrt().sum(), singular.sum()]))
    return np.asarray(torch.stack(found).sum(dim=0).cpu().numpy(), dtype=np.float64)
