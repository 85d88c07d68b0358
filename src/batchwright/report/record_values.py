"""Values as the readers of records take them: numbers whose square is still one, and as many points as a figure can show."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

MAX_POINTS = 400  # of each kind; more cannot be told apart in a figure
LARGEST = 1e100

Item = TypeVar("Item")


def thin(items: Sequence[Item], at_most: int = MAX_POINTS) -> tuple[Item, ...]:
    """Evenly chosen items, the first and the last among them."""
    if len(items) <= at_most:
        return tuple(items)
    gap = (len(items) - 1) / (at_most - 1)
    return tuple(items[round(i * gap)] for i in range(at_most))


def number(value: Any) -> float:
    """A number whose square is still one: what is larger is a run that diverged, so infinite."""
    found = float(value)
    return math.copysign(math.inf, found) if abs(found) > LARGEST else found


def number_or_nan(value: Any) -> float:
    """As `number`; NaN where there is none."""
    return math.nan if value is None else number(value)
