"""What the single updates say of the guarantee: how often the true return fell, and how much more came than was promised."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchwright.core.statistics import Interval
from batchwright.core.study_record import Row
from batchwright.studies.safe_pg.experiments import BOUNDS, DIMENSIONS

GUARANTEE = "The guarantee, update by update"
LEVEL = 0.01  # of the exact binomial test
TITLES = {
    "chebyshev": "Chebyshev",
    "minkowski": "Chebyshev, smaller variance bound",
    "reinforce": "Chebyshev, REINFORCE",
    "bernstein": "Bernstein, range of the sample (no guarantee)",
    "hoeffding": "Hoeffding, range of the sample (no guarantee)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Updates:
    """The single updates of one bound in one dimension.

    Attributes:
        moved: Which updates moved.
        lower: Which of them may have lowered the true return: all but those whose interval lies above zero.
        ratio: Realised over promised improvement of those that moved.
        error_ratio: True error of the gradient over its bound, where it is known.
        delta: Probability of failure.
        seeds: Of the cells.
    """

    moved: NDArray[np.bool_]
    lower: NDArray[np.bool_]
    ratio: NDArray[np.float64]
    error_ratio: NDArray[np.float64]
    delta: float
    seeds: tuple[int, ...]


def updates_of(results: Mapping[str, Mapping[str, Any]], dim: int, bound: str) -> Updates | None:
    """All parts of one bound in one dimension; None if there are none."""
    parts = [result for name, result in results.items() if name.startswith(f"updates/dim-{dim}/{bound}/")]
    if not parts:
        return None

    def column(name: str) -> NDArray[np.float64]:
        return np.array([math.nan if v is None else float(v) for part in parts for v in part[name]])

    moved = column("moved") > 0
    error = column("error") / column("error_bound")
    return Updates(
        moved=moved,
        lower=moved & ~(column("low") > 0),
        ratio=column("gain")[moved] / column("promise")[moved],
        error_ratio=error[np.isfinite(error)],
        delta=float(parts[0]["delta"]),
        seeds=tuple(sorted({int(part["arguments"]["seed"]) for part in parts})),
    )


def guarantee_rows(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Rows on every bound and dimension, and one on all of them together."""
    rows = _all_together(results)
    for dim, (_, delta) in DIMENSIONS.items():
        for bound in BOUNDS:
            found = updates_of(results, dim, bound)
            if found is None or not found.moved.any():
                continue
            where = f"dimension {dim}, {TITLES[bound]}, δ = {delta:g}"
            rows.append(_share_row(where, found.lower[found.moved], delta, found.seeds))
            rows.append(_ratio_row(where, found))
            if len(found.error_ratio):
                rows.append(_error_row(where, found))
    return rows


def _all_together(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Every update of the study that moved, against the smallest delta."""
    every = [each for dim in DIMENSIONS for bound in BOUNDS if (each := updates_of(results, dim, bound)) is not None]
    if not every:
        return []
    lower = np.concatenate([each.lower[each.moved] for each in every])
    asked = sum(len(each.moved) for each in every)
    delta = min(each.delta for each in every)
    where = f"all dimensions and bounds ({asked} updates, of which {asked - len(lower)} did not move), smallest δ = {delta:g}"
    seeds = tuple(sorted({seed for each in every for seed in each.seeds}))
    return [_share_row(where, lower, delta, seeds)] if len(lower) else []


def binomial_tail(number: int, failures: int, probability: float) -> float:
    """Probability of at least so many failures."""
    from scipy.stats import binom

    return float(binom.sf(failures - 1, number, probability))


def exact_interval(number: int, failures: int, level: float = 0.95) -> Interval:
    """Clopper-Pearson interval of a share."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, failures, number - failures + 1)) if failures else 0.0
    high = float(beta.ppf(1 - tail, failures + 1, number - failures)) if failures < number else 1.0
    return Interval(value=failures / number, low=low, high=high, level=level)


def judge_share(number: int, failures: int, delta: float) -> tuple[Interval, str]:
    """A share with its exact interval, and the verdict on "at most δ": few cases without a failure do not settle it."""
    found = exact_interval(number, failures)
    if binomial_tail(number, failures, delta) < LEVEL:
        return found, "does not hold"
    return found, "holds" if found.high <= delta else "not resolved"


def _share_row(where: str, lower: NDArray[np.bool_], delta: float, seeds: tuple[int, ...]) -> Row:
    number, failures = len(lower), int(lower.sum())
    tail, (measured, verdict) = binomial_tail(number, failures, delta), judge_share(number, failures, delta)
    return Row(
        what=f"{where}: share of {number} updates that lower the true return",
        group=GUARANTEE,
        claim=f"at most δ; refuted where an exact binomial test at {LEVEL:.0%} says so, held where the whole interval lies there",
        published=None,
        measured=measured,
        seeds=seeds,
        low=0.0,
        high=delta,
        verdict=verdict,
        note=f"{failures} of {number}; probability of so many at δ: {tail:.2g}",
    )


def _ratio_row(where: str, found: Updates) -> Row:
    low, middle, high = (float(value) for value in np.quantile(found.ratio, (0.05, 0.5, 0.95)))
    return Row(
        what=f"{where}: realised over guaranteed improvement, median (5 to 95 % of updates)",
        group=GUARANTEE,
        claim="how conservative the bound is; 1 would be exact",
        published=None,
        measured=Interval(value=middle, low=low, high=high, level=0.9),
        seeds=found.seeds,
        low=0.0,
        high=math.inf,
        verdict="holds" if low >= 0 else "not resolved",
    )


def _error_row(where: str, found: Updates) -> Row:
    number, failures = len(found.error_ratio), int((found.error_ratio > 1).sum())
    measured, verdict = judge_share(number, failures, found.delta)
    largest = float(found.error_ratio.max())
    return Row(
        what=f"{where}: share of gradients whose true error exceeds its bound",
        group=GUARANTEE,
        claim="at most δ",
        published=None,
        measured=measured,
        seeds=found.seeds,
        low=0.0,
        high=found.delta,
        verdict=verdict,
        note=f"{failures} of {number}; largest error {largest:.2g} of its bound",
    )
