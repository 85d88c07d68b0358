"""What measuring has cost against what training has taken, and whether the next measurement still fits its budget."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuringAccount:
    """Seconds of training and of measuring so far; a value that each entry replaces.

    Attributes:
        budget: Seconds of measuring that a second of training may bring; None for no limit.
        training_s: Seconds of training, measuring left out.
        measuring_s: Seconds of measuring.
        num_steps: Optimizer steps in ``training_s``.
        totals: Seconds of each kind of measurement so far.
        latest: For each kind of measurement its last two costs, as seconds an example.
    """

    budget: float | None
    training_s: float = 0.0
    measuring_s: float = 0.0
    num_steps: int = 0
    totals: Mapping[str, float] = field(default_factory=dict)
    latest: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.budget is not None:
            check_number("budget", self.budget, above=0.0)

    @property
    def share(self) -> float:
        """Seconds of measuring over seconds of training; 0 before the first measurement."""
        if self.measuring_s == 0:
            return 0.0
        return self.measuring_s / self.training_s if self.training_s > 0 else math.inf

    @property
    def left_s(self) -> float:
        """Seconds that may be measured now; negative where a measurement took longer than it was expected to."""
        if self.budget is None:
            return math.inf
        return self.budget * self.training_s - self.measuring_s

    @property
    def step_s(self) -> float:
        """Mean seconds of a training step; 0 before the first."""
        return self.training_s / self.num_steps if self.num_steps else 0.0

    def trained(self, seconds: float, num_steps: int = 1) -> "MeasuringAccount":
        """After steps of training."""
        return replace(self, training_s=self.training_s + max(seconds, 0.0), num_steps=self.num_steps + num_steps)

    def spent(self, seconds: float) -> "MeasuringAccount":
        """After seconds of measuring that belong to no measurement: those of the calls that find nothing is due."""
        return replace(self, measuring_s=self.measuring_s + max(seconds, 0.0))

    def measured(self, kind: str, seconds: float, num_examples: int) -> "MeasuringAccount":
        """After a measurement of one kind."""
        cost = max(seconds, 0.0)
        latest = (*self.latest.get(kind, ())[-1:], cost / max(num_examples, 1))
        return replace(
            self,
            measuring_s=self.measuring_s + cost,
            totals={**self.totals, kind: self.totals.get(kind, 0.0) + cost},
            latest={**self.latest, kind: latest},
        )

    def expected_s(self, kind: str, num_examples: int, guess_s: float) -> float:
        """Seconds that a measurement will take: the dearer of its last two, or ``guess_s`` before the first."""
        known = self.latest.get(kind)
        return max(known) * num_examples if known else guess_s

    def allows(self, seconds: float) -> bool:
        """Whether a measurement of this cost ends within the budget."""
        return seconds <= self.left_s
