"""Confirming a predicted micro-batch by real steps, with the size solved anew where they measure another growth."""

from dataclasses import dataclass

from batchwright.measure.memory_peak import PeakBytes
from batchwright.measure.memory_steps import Steps

MAX_CONFIRMATIONS = 5
# A confirmed peak this near to the budget is not worth another step.
WELL_USED = 0.97
# A prediction is seldom off by more than a little, so the first retreat is short.
RETREATS = (0.98, 0.75)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """What came of a real step.

    Attributes:
        size: Micro-batch of the last step that fitted.
        confirmed: Whether one did.
        sentence: What came of it.
        correction: Measured growth over the predicted one.
    """

    size: int
    confirmed: bool
    sentence: str
    correction: float = 1.0


def confirm_by_step(steps: Steps, peak: PeakBytes, size: int, cap: int, budget: int | None) -> Confirmation:
    """Do real steps, from a size that should fit on, until one uses the budget well.

    Args:
        steps: Steps of the job.
        peak: The prediction.
        size: Where to begin.
        cap: Never more.
        budget: Bytes that may be used; None if unknown.
    """
    fitting: Confirmation | None = None
    highest, failures = cap, 0
    for _ in range(MAX_CONFIRMATIONS):
        if fitting is not None and size <= fitting.size:
            break
        measured = steps.measured_peak(size)
        if measured is None:
            highest = max(1, int(RETREATS[0] * size))
            size = max(1, int(RETREATS[min(failures, len(RETREATS) - 1)] * size))
            failures += 1
            continue
        fixed, per_example = peak.parts_at(size)
        correction = max(measured - fixed, 1) / max(per_example * size, 1.0)
        if budget is None or measured <= budget:
            fitting = Confirmation(
                size=size,
                confirmed=True,
                sentence=f"a step on {size} examples peaked at {measured:,} bytes",
                correction=correction,
            )
            if budget is None or size == cap or measured >= WELL_USED * budget:
                break
        # Solved anew with the growth that was measured; a little lower, or the last fitting size would be missed again.
        wanted = size * 0.99 * (budget - fixed) / max(measured - fixed, 1)
        size = max(1, min(highest, int(wanted)))
    return fitting or Confirmation(
        size=size, confirmed=False, sentence=f"no step stayed inside the budget in {MAX_CONFIRMATIONS} tries"
    )


def too_dear(steps: Steps, size: int, plain_steps: float) -> str:
    """Why a real step on a CPU costs too much to confirm the answer; empty where it does not."""
    cost = size / steps.task.batch_size
    if steps.device.type != "cpu" or cost <= plain_steps:
        return ""
    return f"a step on {size} examples would cost about {cost:.0f} plain steps, more than {plain_steps:g}"
