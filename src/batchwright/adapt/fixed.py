"""The controller that never changes anything: the baseline of all others."""

from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Decision, Measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """Keep the batch size that the run was started with."""

    @property
    def needs_noise_scale(self) -> bool:
        """It looks at nothing."""
        return False

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """Remembers nothing."""
        return {}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """The same batch size again."""
        return state, Decision(batch_size=measured.batch_size, changed=False, reason="fixed batch size")
