"""Batch sharpness: the curvature of a batch's own loss along that batch's own gradient, in expectation over batches.

Source: Andreyev & Beneventano, Edge of Stochastic Stability, arXiv:2412.20553; Andreyev et al. (2026), arXiv:2604.14108, for momentum:
the definition stays as it is, from gradients and not from momentum steps. Deviation: the official code stops by the error of the
ratio of means, which belongs to `batch_sharpness_ratio`; here error and stopping rule belong to the mean of ratios that is returned.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_choice, check_number
from batchwright.core.objectives import Loss
from batchwright.core.preserve import preserved
from batchwright.core.statistics import Interval
from batchwright.core.vectors import trainable
from batchwright.measure.curvature.batch_curvature import batch_curvature
from batchwright.measure.curvature.parts import check_several
from batchwright.measure.curvature.skewed_mean import skewed_mean_interval
from batchwright.measure.curvature.stopping import StoppingRule
from batchwright.measure.curvature.value_difference import ValueDifference

METHODS = ("difference", "exact")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSharpness:
    """Mean over batches of ``g_B^T H_B g_B / ||g_B||^2`` with its error; unit: one over the learning rate.

    Attributes:
        value: The mean of the ratios; NaN if there was no batch with a gradient, or a ratio was not a number.
        standard_error: Of the mean, from the ratios' own scatter; infinite for one batch, which has none.
        low: Lower end of the interval, which is corrected for the skewness of the ratios.
        high: Upper end.
        num_batches: Batches that took part.
        num_examples: Examples in them; batch sharpness belongs to a batch size, here ``num_examples / num_batches``.
        num_zero_gradients: Batches left out because their gradient was exactly zero, where the ratio has no value.
        converged: Whether the stopping rule was met.
        level: Nominal coverage of the interval.
        method: How the curvature was found in the end: ``exact`` also where ``difference`` was asked for and did not do.
        method_reason: Why it did not, in words; empty otherwise.
    """

    value: float
    standard_error: float
    low: float
    high: float
    num_batches: int
    num_examples: int
    num_zero_gradients: int
    converged: bool
    level: float
    method: str
    method_reason: str = ""

    @property
    def batch_size(self) -> float:
        """Mean number of examples a batch; NaN without a batch."""
        return self.num_examples / self.num_batches if self.num_batches else math.nan

    @property
    def interval(self) -> Interval:
        """Value and interval alone."""
        return Interval(value=self.value, low=self.low, high=self.high, level=self.level)


def batch_sharpness(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    relative_error: float = 0.02,
    min_batches: int = 10,
    max_batches: int = 1000,
    method: str = "difference",
    level: float = 0.95,
) -> BatchSharpness:
    """Measure batch sharpness at the model's present parameters.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: Independent batches of the size that is trained with; taken one at a time, and no more than needed.
        relative_error: Standard error over value at which measuring stops.
        min_batches: Fewest batches before it may stop.
        max_batches: Most batches.
        method: ``exact``: second derivatives of automatic differentiation, at 2.4 to 3.5 plain steps a batch. ``difference``: from
            one more forward pass, at 1.5 to 1.9, checked against them on the first batch and given up for them where it does not
            hold; single ratios are off by some per cent of either sign, their mean by less than its error (`value_difference`).
        level: Nominal coverage of the interval.

    Returns:
        The batch sharpness; ``converged=False`` where the batches ended, or ``max_batches`` was reached, before the error was met.

    Raises:
        InputError: If an option is out of its range.
        TaskError: If the loss is not one number an example.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> batches = [torch.randn(8, 2) for _ in range(20)]
        >>> batch_sharpness(model, lambda m, x: m(x).squeeze(1).square(), batches).num_batches
        20
    """
    rule = StoppingRule(relative_error=relative_error, min_batches=min_batches, max_batches=max_batches)
    check_choice("method", method, METHODS)
    check_number("level", level, above=0.0, below=1.0)
    parameters = trainable(model)
    differences = ValueDifference(model, loss, parameters) if method == "difference" else None
    ratios: list[float] = []
    num_examples = num_zero = 0
    look, converged = rule.next_look(0), False
    with preserved(model):
        for batch in check_several(batches):
            found = differences(batch) if differences else batch_curvature(model, loss, batch, parameters)
            if found.sq_norm == 0:
                num_zero += 1
            else:
                ratios.append(found.sharpness)
                num_examples += found.num_examples
            if len(ratios) == look:
                converged = rule.met(*_mean_and_error(ratios), len(ratios))
                look = rule.next_look(look)
            # Batches without a gradient count against the most that may be measured, so an endless supply of them ends too.
            if converged or len(ratios) + num_zero >= max_batches:
                break
    value, standard_error = _mean_and_error(ratios)
    ends = skewed_mean_interval(ratios, level) if ratios and math.isfinite(value) else None
    return BatchSharpness(
        value=value,
        standard_error=standard_error,
        low=math.nan if ends is None else ends.low,
        high=math.nan if ends is None else ends.high,
        num_batches=len(ratios),
        num_examples=num_examples,
        num_zero_gradients=num_zero,
        converged=converged or rule.met(value, standard_error, len(ratios)),
        level=level,
        method="difference" if differences and not differences.reason else "exact",
        method_reason=differences.reason if differences else "",
    )


def step_sharpness(model: nn.Module, loss: Loss, batch: Batch) -> float:
    """Curvature of one batch's loss along its own gradient, ``g^T H g / ||g||^2``; batch sharpness is its mean over batches.

    For the full data set as one batch it is the batch sharpness of full-batch training, without an error.

    Args:
        model: Any model, in the mode in which it is to be measured.
        loss: One loss an example.
        batch: The live batch.

    Returns:
        One number in units of one over the learning rate; NaN where the gradient is exactly zero.

    Raises:
        TaskError: If the loss is not one number an example.
    """
    parameters = trainable(model)
    with preserved(model):
        return batch_curvature(model, loss, batch, parameters).sharpness


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.inf
    data = np.asarray(values)
    error = float(data.std(ddof=1)) / math.sqrt(len(data)) if len(data) > 1 else math.inf
    return float(data.mean()), error
