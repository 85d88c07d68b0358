"""The augmented inner-product test: the batch's gradient must go downhill with high probability, and not too far aside.

Source: Bollapragada, Byrd & Nocedal (2018), arXiv:1710.11258, eqs. (2.6) and (3.3).
"""

import math
from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Measured
from batchwright.adapt.limits import Limits, Wish, sure
from batchwright.adapt.norm_test import signal
from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerProductTest(Limits):
    """Wanted size: the larger of ``Var(<g_i, g>) / (theta^2 ||g||^4)`` and, unless left out, the orthogonality test's.

    The orthogonality test asks for ``(trace - Var(<g_i, g>) / ||g||^2) / (nu^2 ||g||^2)``: the scatter across the gradient's own
    direction. Both take the batch's own gradient ``g``, noise included. Weaker than the norm test, so it asks for smaller
    batches.

    Attributes:
        theta: Tolerance along the gradient, above 0; 0.9 in the paper's runs.
        nu: Tolerance across it, above 0; the paper's 5.84 is the tangent of 80 degrees. None leaves that test out.
    """

    may_shrink: bool = False
    theta: float = 0.9
    nu: float | None = 5.84

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        check_number("theta", self.theta, above=0.0)
        if self.nu is not None:
            check_number("nu", self.nu, above=0.0)

    @property
    def needs(self) -> frozenset[str]:
        """The scatter of the gradients, along their mean too, and their norm."""
        return frozenset({"trace", "grad_sq_norm", "inner_product_variance"})

    def wish(self, memory: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Wish | None]:
        """The size at which both tests would just pass."""
        assert measured.trace is not None
        assert measured.inner_product_variance is not None
        sq_norm = signal(measured, unbiased=False)
        if sq_norm <= 0:
            return memory, sure(math.inf, "a gradient of length zero asks for any size")
        along = measured.inner_product_variance / (self.theta**2 * sq_norm**2)
        across = 0.0
        if self.nu is not None:
            across = max(measured.trace - measured.inner_product_variance / sq_norm, 0.0) / (self.nu**2 * sq_norm)
        return memory, sure(
            max(along, across), f"inner-product test asks for {along:.4g}, orthogonality test for {across:.4g}"
        )
