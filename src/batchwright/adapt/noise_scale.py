"""Follow the gradient noise scale: grow the batch as the gradient sinks into its noise, shrink it when it rises out of it.

Source: McCandlish et al. (2018), arXiv:1812.06162, section 2.3 and appendix D (adaptive batch size by the noise scale).
"""

import math
from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Decision, Measured
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.planning.laws import power_of_two


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScale:
    """Batch size as a fraction of the running noise scale, with hysteresis, in powers of two.

    It moves only when the whole interval of the wanted batch size lies on one side of the present one by the factor
    ``hysteresis``, so noise in the estimate does not make it flap.

    Attributes:
        max_batch_size: Never larger, in examples.
        min_batch_size: Never smaller, in examples.
        fraction: Wanted batch size over noise scale; 0.2 costs a fifth more examples than the small-batch limit where the critical
            batch size equals the noise scale.
        hysteresis: At least 1.
        max_change: Largest factor of one change.
        cooldown: Optimizer steps between two changes.
    """

    max_batch_size: int = 4096
    min_batch_size: int = 1
    fraction: float = 0.5
    hysteresis: float = 1.25
    max_change: float = 2.0
    cooldown: int = 20

    def __post_init__(self) -> None:
        check_int("min_batch_size", self.min_batch_size, at_least=1)
        check_int("max_batch_size", self.max_batch_size, at_least=1)
        if self.max_batch_size < self.min_batch_size:
            raise InputError(
                f"max_batch_size must be at least min_batch_size, got {self.max_batch_size} and {self.min_batch_size}"
            )
        check_number("fraction", self.fraction, above=0.0)
        check_number("hysteresis", self.hysteresis, at_least=1.0)
        check_number("max_change", self.max_change, at_least=2.0)
        check_int("cooldown", self.cooldown, at_least=0)

    @property
    def needs_noise_scale(self) -> bool:
        """It follows the running noise scale."""
        return True

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """It remembers the step of its last change."""
        return {"last_change": 0}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """Keep, grow or shrink; the reason says which and why."""
        now, noise = measured.batch_size, measured.noise_scale
        keep = Decision(batch_size=now, changed=False, reason="the noise scale does not ask for another batch size")
        if noise is None or measured.step - state["last_change"] < self.cooldown:
            return state, keep
        low, high = self.fraction * noise.low, self.fraction * noise.high
        if low > now * self.hysteresis:
            # The lower end is what is sure; with no upper end the value itself may be infinite.
            wanted = min(low if math.isinf(noise.value) else self.fraction * noise.value, now * self.max_change)
        elif high < now / self.hysteresis:
            wanted = max(self.fraction * noise.value, now / self.max_change)
        else:
            return state, keep
        batch_size = power_of_two(wanted, at_least=self.min_batch_size, at_most=self.max_batch_size)
        if batch_size == now:
            return state, keep
        reason = (
            f"noise scale {noise.value:.3g} ({noise.low:.3g} to {noise.high:.3g}) asks for {self.fraction:g} of it; "
            f"the batch {'grows' if batch_size > now else 'shrinks'} from {now} to {batch_size}"
        )
        return {"last_change": measured.step}, Decision(batch_size=batch_size, changed=True, reason=reason)
