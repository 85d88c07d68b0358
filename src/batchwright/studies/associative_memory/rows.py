"""What the summaries share: results by dimension, and rows on slopes of logarithms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchwright.core.statistics import Interval, student_quantile
from batchwright.core.study_record import Row
from batchwright.studies.verdict import judge_interval

Results = Mapping[str, Mapping[str, Any]]

CAPACITY, BATCH, DEPTH, SOFTMAX, MULTI_STEP, ANISOTROPIC = (
    "Capacity of one step",
    "Capacity against batch size",
    "Depth of Newton-Schulz",
    "Training on the softmax",
    "After the frequent items have dropped out",
    "Anisotropic inputs",
)


def by_dim(results: Results, alpha: float, optimizer: str, quantity: str = "count") -> dict[int, list[float]]:
    """One number a seed for each dimension of the capacity experiment."""
    found: dict[int, list[float]] = {}
    for name, result in results.items():
        arguments = result["arguments"]
        if name.startswith("capacity/") and arguments["alpha"] == alpha:
            found.setdefault(int(arguments["dim"]), []).extend(result[optimizer][quantity])
    return dict(sorted(found.items()))


def slope_interval(values: Mapping[int, Sequence[float]]) -> Interval | None:
    """Least-squares slope of the mean of ``log(value)`` over ``log(dim)``, with its 95 % interval from the scatter of the draws.

    The draws of a dimension are independent of those of another, so the variance of the slope is the sum of theirs with the squared
    weights of the fit; the degrees of freedom are Welch and Satterthwaite's. None for fewer than two dimensions or two draws.
    """
    data = [np.asarray(each, dtype=np.float64) for each in values.values()]
    if len(data) < 2 or any(len(each) < 2 or not (each > 0).all() for each in data):
        return None
    logs = [np.log(each) for each in data]
    x = np.log(np.array(list(values), dtype=np.float64))
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    slope = float(sum(w * each.mean() for w, each in zip(weights, logs, strict=True)))
    parts = np.array([w**2 * each.var(ddof=1) / len(each) for w, each in zip(weights, logs, strict=True)])
    variance = float(parts.sum())
    if variance == 0:
        return Interval(value=slope, low=slope, high=slope)
    dof = variance**2 / float(sum(part**2 / (len(each) - 1) for part, each in zip(parts, logs, strict=True)))
    half = student_quantile(0.95, dof) * variance**0.5
    return Interval(value=slope, low=slope - half, high=slope + half)


def slope_row(
    what: str,
    group: str,
    claim: str,
    published: float | None,
    values: Mapping[int, Sequence[float]],
    low: float,
    high: float,
    *,
    note: str = "",
) -> list[Row]:
    """One row on a slope, or none where it cannot be told."""
    found = slope_interval(values)
    if found is None:
        return []
    return [
        Row(
            what=what,
            group=group,
            claim=claim,
            published=published,
            measured=found,
            seeds=tuple(range(max(len(each) for each in values.values()))),
            low=low,
            high=high,
            verdict=judge_interval(found, low, high),
            note=note,
        )
    ]
