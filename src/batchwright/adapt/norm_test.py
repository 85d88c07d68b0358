"""The norm test: grow the batch when the error of its gradient exceeds a share of the gradient's length.

Sources: Byrd, Chin, Nocedal & Wu (2012), Math. Programming 134, eqs. (3.9) and (3.12); with adaptive step sizes and data-parallel ranks
Lau, Liu & Kolar (2024), AdAdaGrad, arXiv:2402.11215, which differ in how the scatter is gathered (from ranks or micro-batches) and in
the tolerance (``eta`` there), not in the test.
"""

import math
from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Measured
from batchwright.adapt.limits import Limits, Wish, sure
from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class NormTest(Limits):
    """Wanted size ``trace / (theta^2 ||g||^2)``: the smallest at which ``trace / B <= theta^2 ||g||^2``.

    ``||g||^2`` is the squared norm of the batch's own gradient, noise included, as in the paper: ``||G||^2 + trace / B``. So the
    size settles at ``(1 - theta^2) trace / (theta^2 ||G||^2)``, and a tolerance of 1 or more never asks for more. With
    ``unbiased=True`` the noise is taken out of the norm (Deviation), and the size settles at ``trace / (theta^2 ||G||^2)``: the
    noise scale over ``theta^2``.

    Attributes:
        theta: Tolerated relative error of the gradient, above 0.
        unbiased: Whether the noise is taken out of the gradient's norm.
    """

    may_shrink: bool = False
    theta: float = 0.5
    unbiased: bool = False

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        check_number("theta", self.theta, above=0.0)

    @property
    def needs(self) -> frozenset[str]:
        """The scatter of the gradients and their norm."""
        return frozenset({"trace", "grad_sq_norm"})

    def wish(self, memory: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Wish | None]:
        """The size at which the test would just pass."""
        assert measured.trace is not None
        sq_norm = signal(measured, unbiased=self.unbiased)
        wanted = math.inf if sq_norm <= 0 else measured.trace / (self.theta**2 * sq_norm)
        return memory, sure(wanted, f"norm test at {self.theta:g} asks for {wanted:.4g}")


def signal(measured: Measured, *, unbiased: bool) -> float:
    """Squared norm of the batch's gradient; without its noise where ``unbiased``."""
    assert measured.trace is not None
    assert measured.grad_sq_norm is not None
    return measured.grad_sq_norm if unbiased else measured.grad_sq_norm + measured.trace / measured.batch_size
