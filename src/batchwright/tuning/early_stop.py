"""When a trial has no chance left: the noise-aware rule of the plan's own searches, applied to where a trial is heading.

A plan leaves a setting when the lower end of the interval of its excess loss is above what is allowed (`measure.short_run`). Two trials
of a search differ in their learning rates, so a trial that is behind now may be ahead at the end; here the excess is that of the
foreseen end: a straight line through the later part of the curve against the logarithm of the examples, with a Student interval of
what it foresees.
"""

import math
from collections.abc import Sequence

import numpy as np

from batchwright.core.statistics import student_quantile
from batchwright.tuning.outcome import Incumbent, Metric, Point

# Two-sided; with about ten looks a trial, the chance that one of them is wrong stays below 5 %, if the curve obeys the line.
LEVEL = 0.99
# A line through fewer points foresees nothing.
FEWEST = 4
# No trial is stopped before this share of its budget: warm-up bends curves.
EARLIEST = 0.25


def foreseen(curve: Sequence[Point], budget: int, metric: Metric) -> tuple[float, float]:
    """Value at the full budget on the scale of the bandit, and half the width of its interval.

    Args:
        curve: Evaluations so far; the later two thirds of the trained ones are used.
        budget: Examples of a whole trial.
        metric: Whose scale the line is straight on.

    Returns:
        The last value with an infinite width where there are too few points.
    """
    trained = [point for point in curve if point.num_examples > 0]
    used = trained[len(trained) // 3 :]
    if len(used) < FEWEST:
        return (metric.seen(trained[-1].value) if trained else math.nan), math.inf
    x = np.log([point.num_examples for point in used])
    y = np.array([metric.seen(point.value) for point in used])
    centre, spread = float(x.mean()), float(np.square(x - x.mean()).sum())
    slope = float(((x - centre) * y).sum()) / spread
    ahead = math.log(budget) - centre
    residual = y - y.mean() - slope * (x - centre)
    variance = float(np.square(residual).sum()) / (len(used) - 2)
    # The scatter of the curve holds the noise of the training, and not that of the evaluation set, which all points share.
    shared = metric.seen_error(used[-1].value, used[-1].standard_error)
    error = math.sqrt(variance * (1 + 1 / len(used) + ahead**2 / spread))
    half = student_quantile(LEVEL, len(used) - 2) * error + 2 * shared
    return float(y.mean()) + slope * ahead, half


def hopeless(curve: Sequence[Point], budget: int, incumbent: Incumbent | None, metric: Metric) -> bool:
    """Whether even the better end of what is foreseen is worse than the incumbent by more than the noise of both."""
    if incumbent is None or not curve or curve[-1].num_examples < EARLIEST * budget:
        return False
    centre, half = foreseen(curve, budget, metric)
    rival = metric.seen(incumbent.value)
    allowed = half + 2 * metric.seen_error(incumbent.value, incumbent.standard_error)
    excess = rival - centre if metric.direction == "above" else centre - rival
    return excess > allowed
