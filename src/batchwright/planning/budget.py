"""What measuring may cost."""

from dataclasses import dataclass

from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """About what measuring may cost; calibration by branches comes on top, and states its own cost.

    Each part is cut to its share before it begins, by what steps cost so far. The sum came to 1.05 to 1.1 times the budget with one
    thread, and to 1.7 times with two on a busy machine; the plan says what it was.

    Attributes:
        plain_steps: In optimizer steps at the task's default batch size.
        seconds: In seconds; unbounded where left out.
    """

    plain_steps: float = 300.0
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_number("plain_steps", self.plain_steps, at_least=40.0, way_out="a pilot and a noise scale need that many")
        if self.seconds is not None:
            check_number("seconds", self.seconds, above=0.0)
