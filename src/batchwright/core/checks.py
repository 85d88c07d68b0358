"""Checks on entry: each error names the argument, the rule, the value and the way out."""

import math
from collections.abc import Collection
from numbers import Integral, Real

from batchwright.core.errors import InputError


def check_int(name: str, value: object, *, at_least: int, way_out: str = "") -> int:
    """Return ``value`` as an int if it is an integer, NumPy's too, of at least ``at_least``.

    Raises:
        InputError: Otherwise; ``way_out`` ends the message.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise InputError(f"{name} must be an integer of at least {at_least}, got {value!r}{_tail(way_out)}")
    return int(value)


def check_number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    way_out: str = "",
) -> float:
    """Return ``value`` as a float if it is a finite number inside the stated bounds.

    Raises:
        InputError: Otherwise; the message states every bound that was asked for.
    """
    number = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
    if not (math.isfinite(number) and above < number < below and at_least <= number <= at_most):
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("above", above), ("at least", at_least), ("at most", at_most), ("below", below))
            if math.isfinite(bound)
        ]
        rule = " and ".join(["a finite number", *bounds])
        raise InputError(f"{name} must be {rule}, got {value!r}{_tail(way_out)}")
    return number


def check_choice(name: str, value: str, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        InputError: Otherwise; the message lists the choices.
    """
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(sorted(choices))}, got {value!r}")
    return value


def _tail(way_out: str) -> str:
    return f"; {way_out}" if way_out else ""
