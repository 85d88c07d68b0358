"""Rows of a summary with the verdict that their values give."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchwright.core.statistics import Interval
from batchwright.core.study_record import Row
from batchwright.studies.verdict import judge, judge_each


def judged_row(
    what: str,
    group: str,
    claim: str,
    published: float | None,
    values: Sequence[float] | NDArray[np.float64],
    low: float,
    high: float,
    *,
    seeds: Sequence[int] = (),
    each: bool = False,
    note: str = "",
) -> Row:
    """A row from one number a seed: their mean must pass with its interval, or with ``each`` every one of them."""
    measured, verdict = (judge_each if each else judge)(list(values), low, high)
    return Row(
        what=what,
        group=group,
        claim=claim,
        published=published,
        measured=measured,
        seeds=tuple(seeds),
        low=low,
        high=high,
        verdict=verdict,
        note=note,
    )


def exact_row(
    what: str, group: str, claim: str, published: float | None, value: float, low: float, high: float, note: str = ""
) -> Row:
    """A row on a number without chance in it."""
    return Row(
        what=what,
        group=group,
        claim=claim,
        published=published,
        measured=Interval(value=value, low=value, high=value, level=1.0),
        seeds=(),
        low=float(low),
        high=float(high),
        verdict="holds" if low <= value <= high else "does not hold",
        note=note,
    )
