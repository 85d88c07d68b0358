"""Numbers, intervals and durations as a reader wants them: three digits of an estimate, all digits of a count."""

import math
import re
from collections.abc import Callable

from batchwright.core.statistics import Interval

Format = Callable[[float], str]

_UNITS = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"))
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def estimate(value: float) -> str:
    """Three significant digits: ``12345.6`` is ``12,300`` and ``2.5e6`` is ``2.5 million``.

    Example:
        >>> estimate(0.21049), estimate(12345.6), estimate(float("inf"))
        ('0.21', '12,300', '∞')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    sign, size = ("−" if value < 0 else ""), float(f"{abs(value):.3g}")
    for scale, word in _LARGE:
        if scale <= size < 1e15:
            return f"{sign}{size / scale:.3g} {word}"
    if 1000 <= size < 1e15:
        return f"{sign}{size:,.0f}"
    mantissa, _, exponent = f"{size:.3g}".partition("e")
    return f"{sign}{mantissa}e{int(exponent)}" if exponent else sign + mantissa


def count(value: float | int) -> str:
    """A whole number with its thousands apart; an estimate where it is not whole or not finite."""
    if not math.isfinite(value) or value != int(value) or abs(value) >= 1e15:
        return estimate(float(value))
    return f"{int(value):,}".replace("-", "−")


def ratio(value: float) -> str:
    """How many times as much: two decimals, since 1.00 and 1.04 are what a reader compares."""
    return f"{value:.2f}" if abs(value) < 10 else estimate(value)


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.3g} %" if math.isfinite(value) else estimate(value)


def duration(value: float) -> str:
    """Seconds in the unit that suits them."""
    return duration_format(value)(value)


def duration_format(value: float) -> Format:
    """A format that writes seconds in the unit that suits ``value``, so both ends of an interval share it."""
    size = abs(value) if math.isfinite(value) else 1.0
    # 119 s and 119 min still read well; a minute and a half is easier as 90 s.
    fitting = [(scale, unit) for scale, unit in _UNITS if size >= (2 if scale >= 60 else 1) * scale]
    scale, unit = fitting[-1] if fitting else (_UNITS[0] if size > 0 else (1.0, "s"))
    return lambda seconds: f"{estimate(seconds / scale)} {unit}"


def span(interval: Interval, write: Format = estimate) -> str:
    """The ends of an interval: ``64–256``, ``at least 64`` where nothing bounds it from above, or ``unknown``."""
    low, high = interval.low, interval.high
    if math.isnan(interval.value) or (low <= 0 and math.isinf(high)):
        return "unknown"
    if math.isinf(high):
        return f"at least {write(low)}"
    if math.isinf(low):
        return f"at most {write(high)}"
    first, last = write(low), write(high)
    # A shared unit is written once: 1.2–1.5 ms.
    number, _, unit = first.partition(" ")
    if unit and last.endswith(f" {unit}") and " " not in last.removesuffix(f" {unit}"):
        first = number
    return f"{first} to {last}" if low < 0 else f"{first}–{last}"


def with_span(interval: Interval, write: Format = estimate) -> str:
    """A value with its interval behind it: ``128 (64–256)``; ``at least 64`` where the value itself is not bounded."""
    if math.isinf(interval.value):
        return span(interval, write) if interval.low > 0 else "not enough evidence"
    ends = span(interval, write)
    return f"{write(interval.value)} ({ends})" if ends != "unknown" else f"{write(interval.value)} (interval unknown)"


def value_or_bound(interval: Interval, write: Format = estimate) -> str:
    """The value, or its lower bound where it is not bounded."""
    if not math.isinf(interval.value):
        return write(interval.value)
    return f"> {write(interval.low)}" if interval.low > 0 else "unknown"


def seconds_with_span(interval: Interval) -> str:
    """A duration with its interval, both in one unit."""
    return with_span(interval, duration_format(interval.value))


def plural(number: int, word: str) -> str:
    """``1 run``, ``3 runs``."""
    return f"{count(float(number))} {word}" + ("" if number == 1 else "s")


def human(name: str) -> str:
    """A field name as words: ``critical_batch_size`` is ``Critical batch size``."""
    words = {
        "lr": "learning rate",
        "max_lr": "largest stable learning rate",
        "beta2": "β₂",
        "micro_batch_size": "micro-batch size",
        "num_cpus": "processors",
        "num_threads": "threads",
        "malloc_keeps_memory": "allocator keeps memory",
    }
    if name == "kappa":
        return "κ"
    spaced = words.get(name, name.replace("_", " "))
    return spaced[:1].upper() + spaced[1:]


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts ``batch-64`` before ``batch-256``."""
    parts = re.split(r"([0-9]{1,18})", text)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts)]
