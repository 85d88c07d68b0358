"""The learning rate falls where the generator no longer gains: a relative test of its samples now and some tests ago.

Source: Binkowski et al. (2018), arXiv:1801.01401, section 5 and public code: p > 0.1 counts as no gain, and after three in a row the
learning rate is halved. Deviation: features are those of any extractor.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from batchwright.core.kernels import Polynomial
from batchwright.core.mmd import relative_test

# A p-value above this says that the present generator is not surely nearer to the data than the former one.
NO_GAIN = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class LrTest:
    """What one look at the generator found.

    Attributes:
        step: Generator step.
        p_value: Of "the former generator is at least as near to the data"; None while the window is not full.
        lowers: Whether the learning rates fall now.
    """

    step: int
    p_value: float | None
    lowers: bool


class RelativeLr:
    """Remembers features of former samples and says when the learning rates are to fall.

    Args:
        reference: Features of real points, ``(M, h)``.
        window: A sample is compared with the one so many looks before it.
        patience: Looks in a row without a gain before the learning rates fall.
    """

    def __init__(self, reference: Tensor, *, window: int, patience: int) -> None:
        self.reference, self.window, self.patience = reference, window, patience
        self.kept: list[Tensor] = []
        self.failures = 0

    def look(self, step: int, features: Tensor) -> LrTest:
        """Take in features of the present sample, ``(N, h)``."""
        self.kept = [*self.kept[-self.window :], features]
        if len(self.kept) <= self.window:
            return LrTest(step=step, p_value=None, lowers=False)
        p_value = relative_test(self.reference, self.kept[0], features, Polynomial()).p_value
        self.failures = self.failures + 1 if p_value > NO_GAIN else 0
        lowers = self.failures >= self.patience
        if lowers:
            self.failures = 0
        return LrTest(step=step, p_value=p_value, lowers=lowers)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"kept": list(self.kept), "failures": self.failures}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.kept = [features.to(self.reference) for features in state["kept"]]
        self.failures = int(state["failures"])
