"""Mode collapse, told with what was measured: classes that the generator leaves out, or samples that are surely worse than before.

Source of the test on samples: Bounliphone et al. (2016), arXiv:1511.04581, under the kernel of the kernel inception distance.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from batchwright.core.kernels import Polynomial
from batchwright.core.mmd import mmd2, relative_test

# A class is missing where even the upper end of its share's interval is below this part of its share among real points.
MISSING_PART = 0.25
SURELY_WORSE = 1e-3
LEVEL = 0.95


class CollapseWarning(UserWarning):
    """The generator leaves out classes of the data, or is surely worse than it was."""


def share_interval(count: int, num: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a share after Clopper and Pearson (1934).

    Example:
        >>> [round(end, 3) for end in share_interval(0, 100)]
        [0.0, 0.036]
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, num - count + 1, tail))
    high = 1.0 if count == num else float(betaincinv(count + 1, num - count, 1 - tail))
    return low, high


def missing_classes(generated: Tensor, real_shares: Sequence[float]) -> list[str]:
    """A sentence for each class that generated points surely have in less than a quarter of its share among real points.

    Args:
        generated: Class of each generated point, ``(N,)``, as a classifier sees it.
        real_shares: Share of each class among real points.
    """
    num = len(generated)
    counts = torch.bincount(generated, minlength=len(real_shares)).tolist()
    found = []
    for number, (count, real) in enumerate(zip(counts, real_shares, strict=True)):
        high = share_interval(count, num)[1]
        if high < MISSING_PART * real:
            found.append(
                f"class {number} has {100 * count / num:.2g} % of {num} generated points (at most {100 * high:.2g} %) and "
                f"{100 * real:.2g} % of the data"
            )
    return found


class BestSample:
    """Keeps the features of the best sample so far, and says when one is surely worse.

    Args:
        reference: Features of real points, ``(M, h)``.
    """

    def __init__(self, reference: Tensor) -> None:
        self.reference = reference
        self.features: Tensor | None = None
        self.step, self.distance = 0, float("inf")

    def look(self, step: int, features: Tensor) -> str:
        """Take in features of the present sample; a sentence where it is surely worse than the best, else an empty one."""
        distance = float(mmd2(self.reference, features, Polynomial()))
        if self.features is None or distance < self.distance:
            self.features, self.step, self.distance = features, step, distance
            return ""
        found = relative_test(self.reference, features, self.features, Polynomial())
        if found.p_value >= SURELY_WORSE:
            return ""
        return (
            f"the kernel distance to the data is {distance:.3g} and was {self.distance:.3g} at step {self.step} "
            f"(p = {found.p_value:.1g})"
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"features": self.features, "step": self.step, "distance": self.distance}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        kept = state["features"]
        self.features = None if kept is None else kept.to(self.reference)
        self.step, self.distance = int(state["step"]), float(state["distance"])
