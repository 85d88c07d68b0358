"""SimiGrad: hold the cosine between the gradients of two halves of the batch at a target.

Source: Qin et al. (2021), SimiGrad, NeurIPS 34, section 3: the batch grows while the cosine is below the target, and shrinks above it.
"""

import math
from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Measured
from batchwright.adapt.limits import Limits, Wish, sure
from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class SimiGrad(Limits):
    """Wanted size: the one at which the cosine would be the target.

    With ``h`` examples a half and noise scale ``S`` the cosine is about ``c = 1 / (1 + S / h)``, so from batch size ``B`` the
    target ``t`` is met at ``B (1/c - 1) / (1/t - 1)``. Deviation: the paper moves by steps of its own choice towards the target;
    this moves by that relation, at most by ``max_change``. The cosine of one step is noisy, so it is averaged, and the average
    starts anew when the batch size changes.

    Attributes:
        target: Between 0 and 1; 1/3 means a batch of the noise scale.
        averaging: Weight kept of the running average of the cosine from one update to the next.
        num_steps: Updates since the last change before it acts.
    """

    target: float = 0.5
    averaging: float = 0.9
    num_steps: int = 10

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        check_number("target", self.target, above=0.0, below=1.0)
        check_number("averaging", self.averaging, at_least=0.0, below=1.0)
        check_number("num_steps", self.num_steps, at_least=1)

    @property
    def needs(self) -> frozenset[str]:
        """The cosine of the gradients of two halves of the batch."""
        return frozenset({"cosine"})

    def first_memory(self) -> dict[str, Any]:
        """No average yet."""
        return {"weight": 0.0, "cosine": 0.0, "count": 0}

    def after_change(self, memory: dict[str, Any]) -> dict[str, Any]:
        """The cosine depends on the batch size."""
        return self.first_memory()

    def wish(self, memory: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Wish | None]:
        """The size at which the averaged cosine would be the target."""
        assert measured.cosine is not None
        if math.isnan(measured.cosine):
            return memory, None
        old, new = self.averaging, 1 - self.averaging
        memory = {
            "weight": old * memory["weight"] + new,
            "cosine": old * memory["cosine"] + new * measured.cosine,
            "count": memory["count"] + 1,
        }
        if memory["count"] < self.num_steps:
            return memory, None
        cosine = memory["cosine"] / memory["weight"]
        wanted = math.inf
        if cosine > 0:
            wanted = measured.batch_size * max(1 / cosine - 1, 0.0) / (1 / self.target - 1)
        return memory, sure(
            wanted, f"cosine {cosine:.3g} of two halves, with a target of {self.target:g}, asks for {wanted:.4g}"
        )
