"""The controller that never changes anything: the baseline of all others."""

from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Decision, Measured, keep


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """Keep the batch size that the run was started with."""

    @property
    def needs(self) -> frozenset[str]:
        """It looks at nothing."""
        return frozenset()

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """Remembers nothing."""
        return {}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """The same batch size again."""
        return state, keep(measured, "fixed batch size")
