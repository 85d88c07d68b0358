"""The interface of batch-size controllers: values in, values out; ``state, decision = controller.update(state, measured)``."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from batchwright.core.statistics import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a controller may look at after an optimizer step.

    Attributes:
        step: Optimizer steps done.
        num_examples: Training examples used.
        batch_size: Examples in the last step.
        noise_scale: Running noise scale in examples with its interval; None before the first estimate.
    """

    step: int
    num_examples: int
    batch_size: int
    noise_scale: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a controller wants of the next step.

    Attributes:
        batch_size: Examples in the next step.
        changed: Whether that differs from the last step.
        reason: One sentence.
    """

    batch_size: int
    changed: bool
    reason: str


@runtime_checkable
class Controller(Protocol):
    """A frozen dataclass of options; what it remembers is in a state that JSON can hold."""

    @property
    def needs_noise_scale(self) -> bool:
        """Whether the training loop must gather gradient noise for it."""
        ...

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """State before the first step of a run that starts at ``batch_size``."""
        ...

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """The next state, and the batch size of the next step."""
        ...
