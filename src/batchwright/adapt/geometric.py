"""Geometric growth: multiply the batch size by a factor at equal intervals.

Sources: Devarakonda, Naumov & Garland (2017), AdaBatch, arXiv:1712.02029 (doubling every so many epochs); Friedlander & Schmidt (2012),
arXiv:1104.2373 (a gradient error that falls geometrically keeps linear convergence); Smith et al. (2018), arXiv:1711.00489 (growth in
place of lr decay).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from batchwright.adapt.controller import CLOCKS, Decision, Measured, check_first_size, clock, clock_needs, keep
from batchwright.core.checks import check_choice, check_int, check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometric:
    """The first batch size times ``factor ** (number of intervals passed)``, rounded, up to ``max_batch_size``.

    Attributes:
        every: Length of an interval.
        unit: What it counts: ``steps``, ``examples``, ``tokens`` or ``epochs``.
        factor: Above 1.
        max_batch_size: Never larger, in examples.
        keep_lr: Whether growth stands in place of lr decay, so that the learning rate stays; else the optimizer's rule moves it.
    """

    main_option: ClassVar[tuple[str, str]] = ("every", "20k")

    every: int
    unit: str = "examples"
    factor: float = 2.0
    max_batch_size: int = 4096
    keep_lr: bool = False

    def __post_init__(self) -> None:
        check_int("every", self.every, at_least=1)
        check_choice("unit", self.unit, CLOCKS)
        check_number("factor", self.factor, above=1.0)
        check_int("max_batch_size", self.max_batch_size, at_least=1)

    @property
    def needs(self) -> frozenset[str]:
        """Its clock."""
        return clock_needs(self.unit)

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """It remembers the first batch size.

        Raises:
            InputError: If that is above ``max_batch_size``.
        """
        return {"first": check_first_size(batch_size, self.max_batch_size)}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """The size of the interval that this instant lies in."""
        now, factor = clock(measured, self.unit), 1.0 if self.keep_lr else None
        if now is None:
            return state, keep(measured, f"not measured yet: {self.unit}", lr_factor=factor)
        passed = now // self.every
        # Past this many intervals the bound holds anyway, and the power would overflow.
        enough = math.log(self.max_batch_size / state["first"]) / math.log(self.factor) + 1
        size = min(self.max_batch_size, round(state["first"] * self.factor ** min(passed, enough)))
        if size == measured.batch_size:
            return state, keep(measured, "the interval is not over", lr_factor=factor)
        reason = f"{passed} intervals of {self.every:,} {self.unit} are over; the batch goes from {measured.batch_size} to {size}"
        return state, Decision(batch_size=size, changed=True, reason=reason, lr_factor=factor)
