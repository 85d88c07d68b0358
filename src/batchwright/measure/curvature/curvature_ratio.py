"""A ratio of two means over batches with its error: the form that all the other sharpnesses along gradients have.

Sources of the intervals: where the denominator is a mean of squares, the jackknife's pseudo-values (Efron & Tibshirani 1993,
chapter 11) with the skewness correction of `skewed_mean`; Fieller (1954) where it is an unbiased estimate that may come out
near zero or below.

Where a few batches have most of the squared gradient the intervals are too narrow. At a nominal 95 %: on gradients with such tails
80 batches covered 94 % and 40 covered 91, and 40 pairs for interaction-aware sharpness 87; at batch size 8 it covered 89, 92 and 92 %
with 40, 120 and 240 pairs, and gradient-noise interaction 92 and 95 % with 40 and 120.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from batchwright.core.checks import check_number
from batchwright.core.statistics import Interval, jackknife_covariance, ratio_interval, student_quantile
from batchwright.measure.curvature.skewed_mean import skewed_mean_interval
from batchwright.measure.curvature.stopping import StoppingRule


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvatureRatio:
    """Mean of one quantity over mean of another, over batches.

    Attributes:
        value: ``numerator / denominator``; ``inf`` where the denominator is not positive, NaN without a batch.
        standard_error: By the delta method; infinite for one sample.
        low: Lower end of the interval.
        high: Upper end; ``inf`` where the denominator is not resolved from zero.
        numerator: Mean of the upper quantity.
        denominator: Mean of the lower quantity.
        num_samples: Independent samples: batches, or pairs of batches.
        num_batches: Batches measured.
        converged: Whether the stopping rule was met.
        level: Nominal coverage of the interval.
    """

    value: float
    standard_error: float
    low: float
    high: float
    numerator: float
    denominator: float
    num_samples: int
    num_batches: int
    converged: bool
    level: float

    @property
    def interval(self) -> Interval:
        """Value and interval alone."""
        return Interval(value=self.value, low=self.low, high=self.high, level=self.level)


def ratio_over_batches(
    samples: Iterable[tuple[float, float]],
    rule: StoppingRule,
    level: float,
    *,
    batches_a_sample: int = 1,
    signed_denominator: bool = False,
) -> CurvatureRatio:
    """Average numerators and denominators until the ratio is known well enough.

    Args:
        samples: Numerator and denominator of one sample at a time; no more are taken than needed.
        rule: When to stop, counted in batches.
        level: Nominal coverage.
        batches_a_sample: Batches that one sample takes.
        signed_denominator: Whether the denominator's samples may be negative, so that Fieller's interval is needed.
    """
    check_number("level", level, above=0.0, below=1.0)
    rows: list[tuple[float, float]] = []
    look, converged = rule.next_look(0), False
    for sample in samples:
        rows.append(sample)
        num_batches = len(rows) * batches_a_sample
        if num_batches >= look:
            value, error = _value_and_error(rows)
            converged, look = rule.met(value, error, num_batches), rule.next_look(num_batches)
        if converged or num_batches + batches_a_sample > rule.max_batches:
            break
    value, error = _value_and_error(rows)
    means = np.mean(rows, axis=0) if rows else np.full(2, math.nan)
    low, high = _interval(rows, value, error, level, signed_denominator)
    return CurvatureRatio(
        value=value,
        standard_error=error,
        low=low,
        high=high,
        numerator=float(means[0]),
        denominator=float(means[1]),
        num_samples=len(rows),
        num_batches=len(rows) * batches_a_sample,
        converged=converged or rule.met(value, error, len(rows) * batches_a_sample),
        level=level,
    )


def _value_and_error(rows: list[tuple[float, float]]) -> tuple[float, float]:
    if not rows:
        return math.nan, math.inf
    data = np.asarray(rows)
    numerator, denominator = data.mean(axis=0)
    if not denominator > 0:
        return (math.inf if denominator <= 0 else math.nan), math.inf
    value = float(numerator / denominator)
    if len(data) < 2:
        return value, math.inf
    residuals = data[:, 0] - value * data[:, 1]
    return value, float(residuals.std(ddof=1) / (math.sqrt(len(data)) * denominator))


def _interval(
    rows: list[tuple[float, float]], value: float, error: float, level: float, signed: bool
) -> tuple[float, float]:
    if math.isnan(value):
        return math.nan, math.nan
    if len(rows) < 2:
        return -math.inf, math.inf
    data = np.asarray(rows)
    numerator, denominator = data.mean(axis=0)
    if signed and numerator > 0:
        left_out = (data.sum(axis=0) - data) / (len(data) - 1)
        found = ratio_interval(
            float(numerator), float(denominator), jackknife_covariance(left_out), dof=len(data) - 1, level=level
        )
        return float(found.low), float(found.high)
    if not math.isfinite(value):
        return -math.inf, math.inf
    if len(rows) < 3 or not np.isfinite(data).all():
        half = student_quantile(level, len(rows) - 1) * error
        return float(value - half), float(value + half)
    left_out = (data[:, 0].sum() - data[:, 0]) / (data[:, 1].sum() - data[:, 1])
    pseudo = len(data) * value - (len(data) - 1) * left_out
    found = skewed_mean_interval([float(each) for each in pseudo], level)
    return min(found.low, value), max(found.high, value)
