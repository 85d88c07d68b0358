"""How sure a plan is: what would change if a measurement were wrong, and the interval of every number."""

import math
from collections.abc import Sequence

from batchwright.core.statistics import Interval
from batchwright.report.elements import Html, bullets, table
from batchwright.report.figures import knee_batch_size
from batchwright.report.figures.prediction import TOLERANCE, flat_part, nearest, usable_curve
from batchwright.report.plan_records import PlanRecord
from batchwright.report.text import (
    Format,
    count,
    estimate,
    human,
    percent,
    plural,
    ratio,
    seconds_with_span,
    span,
    value_or_bound,
    with_span,
)

EXPLANATIONS = {
    "noise_scale": "noise of one example's gradient over the gradient; the batch at which they weigh the same",
    "critical_batch_size": "examples in a step at which twice the examples of small batches are needed",
    "kappa": "critical batch size over noise scale",
    "overhead_s": "what a step costs before its first example",
    "per_example_s": "what each example adds to a step",
    "batch_size": "examples averaged in one update",
    "micro_batch_size": "examples in one forward pass",
    "lr": "at this batch size",
    "max_lr": "largest learning rate that the measured curvature allows at this batch size",
    "batch_sharpness": "curvature of a batch's own loss along its gradient, at the default batch size; 1 over a learning rate",
    "mean_curvature": "curvature of the full loss along batch gradients; the rest of batch sharpness is noise",
}


def certainty(plan: PlanRecord) -> list[Html]:
    """Sentences about what would change if a measurement were wrong, then the intervals."""
    evidence, curve = plan.evidence, usable_curve(plan)
    lines: list[str] = []
    if curve:
        first, last = flat_part(curve)
        sizes = (
            f"Any batch size from {count(first)} to {count(last)}"
            if first != last
            else f"Only batch size {count(first)}"
        )
        lines.append(
            f"{sizes} is predicted to be within {percent(TOLERANCE - 1)} of the shortest time (sizes in powers of two)."
        )
        chosen = nearest(curve, float(plan.batch_size))
        worst = f"; at the far end of its interval {ratio(chosen.time.high)} ×" if chosen.time.high < math.inf else ""
        lines.append(
            f"The plan is predicted to take {ratio(chosen.time.value)} × the shortest time{worst}, and "
            f"{ratio(chosen.examples)} × the examples of the small-batch limit."
        )
    if evidence.kappa is not None:
        source = f" ({evidence.kappa_source})" if evidence.kappa_source else ""
        lines.append(
            f"The critical batch size is taken as κ = {with_span(evidence.kappa)} times the noise scale{source}."
        )
    lines += _curvature_lines(plan)
    open_ended = sum(math.isinf(point.noise_scale.high) for point in evidence.noise)
    if open_ended:
        lines.append(
            f"At {open_ended} of {plural(len(evidence.noise), 'point')} of the pilot the gradient was not resolved from its "
            "noise, so only a lower bound of the noise scale is known there."
        )
    knee = knee_batch_size(plan)
    if knee is not None:
        lines.append(
            f"Overhead weighs as much as {estimate(knee)} examples, so smaller batches cost nearly the same a step."
        )
    known: dict[str, Interval | None] = {
        **plan.intervals,
        "kappa": evidence.kappa,
        "overhead_s": evidence.overhead_s,
        "per_example_s": evidence.per_example_s,
    }
    if evidence.curvature is not None:
        known |= {
            "batch_sharpness": evidence.curvature.batch_sharpness,
            "mean_curvature": evidence.curvature.mean_curvature,
        }
    rows = [
        [_quantity(key), *_interval_cells(key, interval), EXPLANATIONS.get(key, "")]
        for key, interval in known.items()
        if interval is not None
    ]
    parts = [bullets(lines)]
    if rows:
        head = ["", "value", "interval", "level", "what it is"]
        parts.append(table("Intervals of what was measured and decided", head, rows, texts=(4,)))
    parts += _normalization(plan)
    return parts


def _normalization(plan: PlanRecord) -> list[Html]:
    """What the statistics of few examples cost the batch normalization layers."""
    found = plan.evidence.normalization
    if found is None:
        return []
    scale = found.scale or 1.0
    rows = [
        [
            count(size),
            percent(excess.value / scale),
            f"{percent(excess.low / scale)} to {percent(excess.high / scale)}",
            estimate(mean_error),
            estimate(log_variance_error),
        ]
        for size, excess, mean_error, log_variance_error in zip(
            found.micro_batch_sizes, found.excess, found.mean_error, found.log_variance_error, strict=False
        )
    ]
    title = (
        f"Batch normalization with the statistics of small micro-batches, against those of {count(found.reference_size)} examples "
        f"({plural(found.num_layers, 'layer')}; in parts of what the pilot gained, {estimate(found.scale)}; up to "
        f"{percent(found.tolerance)} counts as harmless)"
    )
    head = ["micro-batch", "added to the loss", "interval", "squared error of means / variance", "of log variances"]
    return [table(title, head, rows)]


def _curvature_lines(plan: PlanRecord) -> list[str]:
    """How far the learning rate is from its bound, where it was raised."""
    found, top = plan.evidence.curvature, plan.intervals.get("max_lr")
    if found is None or top is None:
        return []
    part = f"{percent(plan.lr / top.value)} of" if top.value > 0 else "beyond"
    allowed = with_span(top) if top.low < top.high else estimate(top.value)
    eigenvalue = "" if found.sharpness_converged else " at least"
    return [
        f"The learning rate is {part} the largest one that the curvature at step {count(found.step)} of the pilot allows, "
        f"{allowed}; the largest eigenvalue there is{eigenvalue} {estimate(found.sharpness)}."
    ]


def _quantity(key: str) -> str:
    return {"overhead_s": "Overhead a step (a)", "per_example_s": "Time an example (b)"}.get(key, human(key))


def _interval_cells(key: str, interval: Interval) -> Sequence[str]:
    if key.endswith("_s"):
        value, _, ends = seconds_with_span(interval).partition(" (")
        return value, ends.removesuffix(")"), percent(interval.level)
    write: Format = count if key in ("batch_size", "micro_batch_size") else estimate
    if interval.low == interval.high:  # given, or bounded by one eigenvalue: no scatter was measured
        return value_or_bound(interval, write), "none", "–"
    return value_or_bound(interval, write), span(interval, write), percent(interval.level)
