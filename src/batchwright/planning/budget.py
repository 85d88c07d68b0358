"""What measuring may cost."""

from dataclasses import dataclass

from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Bounds on the cost of measuring; calibration by branches comes on top, and states its own cost.

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
