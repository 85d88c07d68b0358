"""What an integration tells about a step: what it was made of, what was measured, and what the next one will be."""

import math
from dataclasses import dataclass

from batchwright.core.statistics import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What an optimizer step was made of, and what the next one will be.

    Attributes:
        step: Optimizer steps done.
        num_examples: Training examples used.
        batch_size: Examples in this step, on all ranks together.
        lr: Learning rate that was in force, of the first parameter group.
        noise_scale: Running noise scale with its interval; None where it is not measured, or not yet.
        next_batch_size: Examples in the next step.
        next_micro_batches: Micro-batches that each rank accumulates for it.
        changed: Whether that is another number than before.
        reason: Of the decision, in one sentence, with the rounding where there was one.
    """

    step: int
    num_examples: int
    batch_size: int
    lr: float
    noise_scale: Interval | None
    next_batch_size: int
    next_micro_batches: int
    changed: bool
    reason: str

    def scalars(self) -> dict[str, float]:
        """The numbers of it that are finite, by the names of their curves."""
        found: dict[str, float] = {
            "batch_size": float(self.batch_size),
            "lr": self.lr,
            "num_examples": float(self.num_examples),
        }
        if self.noise_scale is not None:
            found["noise_scale"] = self.noise_scale.value
            found["noise_scale_low"] = self.noise_scale.low
            found["noise_scale_high"] = self.noise_scale.high
        return {name: value for name, value in found.items() if math.isfinite(value)}
