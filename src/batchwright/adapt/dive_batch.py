"""DiveBatch: at the end of an epoch, take as many examples as the diversity of its gradients allows.

Source: Chen, Wang & Sundaram (2025), arXiv:2509.16173, algorithm 1, on the bound of Yin et al. (2018), arXiv:1706.05699.
"""

from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Measured
from batchwright.adapt.limits import Limits, Wish, sure
from batchwright.core.checks import check_number
from batchwright.measure.wanted_batch_sizes import dive_batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class DiveBatch(Limits):
    """Wanted size ``delta * num_train * diversity``, once an epoch, taken as it is: any change, no hysteresis, not rounded to powers.

    Attributes:
        delta: Share of the bound that is used, above 0; 0.1 and 1 in the paper's runs.
    """

    hysteresis: float = 1.0
    max_change: float | None = None
    cooldown: int = 0
    rounding: str = "exact"
    delta: float = 0.1

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        check_number("delta", self.delta, above=0.0)

    @property
    def needs(self) -> frozenset[str]:
        """The diversity over the last epoch; it is measured once an epoch."""
        return frozenset({"diversity", "num_train"})

    def wish(self, memory: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Wish | None]:
        """The paper's size, before its upper bound."""
        assert measured.diversity is not None
        assert measured.num_train is not None
        wanted = dive_batch_size(
            measured.diversity, num_examples=measured.num_train, delta=self.delta, max_batch_size=self.max_batch_size
        )
        return memory, sure(wanted, f"gradient diversity {measured.diversity:.3g} asks for {wanted:.4g}")
