"""When a mean over batches has been measured well enough."""

from dataclasses import dataclass

from batchwright.core.checks import check_int, check_number

# Looks are a tenth further apart each time: a rule that looks after every batch stops when chance has made the scatter small.
GROWTH = 1.1


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppingRule:
    """Stop once the standard error is a stated part of the value, within bounds on the number of batches.

    Attributes:
        relative_error: Standard error over absolute value at which it is enough.
        min_batches: Fewest batches before the rule may stop.
        max_batches: Most batches.
    """

    relative_error: float
    min_batches: int
    max_batches: int

    def __post_init__(self) -> None:
        check_number("relative_error", self.relative_error, above=0.0)
        check_int("min_batches", self.min_batches, at_least=2)
        check_int(
            "max_batches", self.max_batches, at_least=self.min_batches, way_out="lower min_batches or raise max_batches"
        )

    def next_look(self, num_batches: int) -> int:
        """Number of batches at which to look again after a look at ``num_batches``."""
        return min(self.max_batches, max(self.min_batches, num_batches + 1, round(num_batches * GROWTH)))

    def met(self, value: float, standard_error: float, num_batches: int) -> bool:
        """Whether the value is known well enough; never for a value that is not a number."""
        return num_batches >= self.min_batches and standard_error <= self.relative_error * abs(value)
