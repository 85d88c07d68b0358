"""Follow the gradient noise scale: grow the batch as the gradient sinks into its noise, shrink it when it rises out of it.

Source: McCandlish et al. (2018), arXiv:1812.06162, section 2.3 and appendix D (adaptive batch size by the noise scale).
"""

import math
from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Measured
from batchwright.adapt.limits import Limits, Wish
from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScale(Limits):
    """Batch size as a fraction of the running noise scale; the interval keeps noise in the estimate from moving it.

    Attributes:
        fraction: Wanted batch size over noise scale; 0.2 costs a fifth more examples than the small-batch limit where the critical
            batch size equals the noise scale.
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        check_number("fraction", self.fraction, above=0.0)

    @property
    def needs(self) -> frozenset[str]:
        """It follows the running noise scale."""
        return frozenset({"noise_scale"})

    def wish(self, memory: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Wish | None]:
        """The fraction of the noise scale, with its interval."""
        noise = measured.noise_scale
        assert noise is not None
        value, low, high = (_told(each) for each in (noise.value, noise.low, noise.high))
        reason = f"noise scale {value} ({low} to {high}) asks for {self.fraction:g} of it"
        return memory, Wish(
            value=self.fraction * noise.value,
            low=self.fraction * noise.low,
            high=self.fraction * noise.high,
            reason=reason,
        )


def _told(examples: float) -> str:
    """A number of examples in three figures, or whole; with ``inf`` for no bound."""
    return f"{examples:,.0f}" if 1000 <= examples < math.inf else f"{examples:.3g}"
