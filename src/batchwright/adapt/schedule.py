"""Batch sizes by a schedule of steps, examples or tokens, written ``0:64 50k:128 1M:256``.

Source: practice; the form is that of large-model trainers (a list of sizes by what has been used). Counted in examples or tokens it
means the same at any batch size, counted in steps it does not.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchwright.adapt.amounts import parse_schedule
from batchwright.adapt.controller import CLOCKS, Decision, Measured, clock, clock_needs, keep
from batchwright.core.checks import check_choice


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The size whose start is the last one passed; before the first start, the size that the run was started with.

    A step is not cut at a start: the size changes with the first step that begins at it or past it.

    Attributes:
        schedule: Entries ``start:batch_size``, such as ``"0:64 50k:128 1M:256"``.
        unit: What the starts count: ``steps``, ``examples``, ``tokens`` or ``epochs``.
    """

    main_option: ClassVar[tuple[str, str]] = ("schedule", "0:64 50k:128 1M:256")

    schedule: str
    unit: str = "examples"

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, CLOCKS)
        parse_schedule("schedule", self.schedule)

    @property
    def needs(self) -> frozenset[str]:
        """Its clock."""
        return clock_needs(self.unit)

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """Remembers nothing."""
        return {}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """The size in force at this instant."""
        now = clock(measured, self.unit)
        if now is None:
            return state, keep(measured, f"not measured yet: {self.unit}")
        passed = [(start, size) for start, size in parse_schedule("schedule", self.schedule) if start <= now]
        if not passed or passed[-1][1] == measured.batch_size:
            return state, keep(measured, "the schedule keeps the batch size")
        start, size = passed[-1]
        reason = f"the schedule has {size} from {start:,} {self.unit}"
        return state, Decision(batch_size=size, changed=True, reason=reason)
