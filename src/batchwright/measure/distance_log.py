"""Distance of the weights from where they began, at steps evenly spaced in ``log t``: what `diffusion` is fitted to.

Source: Hoffer, Hubara & Soudry (2017), arXiv:1705.08741, section 2. Deviation: the official code logs the first parameter tensor
alone, once an epoch; here all parameters count, at about ten steps an e-fold.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from batchwright.core.checks import check_number
from batchwright.core.vectors import FlatCopy


@dataclass(frozen=True, kw_only=True, slots=True)
class DistancePoint:
    """Where the weights were after a step: their Euclidean distance from the beginning."""

    step: int
    distance: float


class DistanceLog:
    """Measures after log-spaced steps; costs one copy of the parameters, and one pass over them at each measured step.

    Args:
        parameters: As they are at the beginning; read again at each measured step.
        start: Their values at the beginning, where training has begun already; as they are where left out.
        spacing: The next measured step comes after this share of the steps so far.

    Attributes:
        points: What was measured.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(4))
        >>> log = DistanceLog([weight])
        >>> with torch.no_grad():
        ...     _ = weight.add_(1.0)
        >>> log.after_step(1)
        DistancePoint(step=1, distance=2.0)
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, start: Iterable[Tensor] | None = None, spacing: float = 0.1
    ) -> None:
        self._parameters = list(parameters)
        self._start = [each.detach().clone() for each in (self._parameters if start is None else start)]
        self._scratch = FlatCopy(self._start)
        self._spacing = check_number("spacing", spacing, above=0.0)
        self._next = 1
        self.points: list[DistancePoint] = []

    def after_step(self, step: int) -> DistancePoint | None:
        """Measure if it is time; ``step`` counts the optimizer steps that are done.

        Returns:
            What was measured, if anything; the distance is NaN once the weights are.
        """
        if step < self._next:
            return None
        self._next = step + max(1, int(self._spacing * step))
        self._scratch.copy_([each.detach() for each in self._parameters])
        self._scratch.subtract_(self._start)
        point = DistancePoint(step=step, distance=math.sqrt(float(self._scratch.sq_norm())))
        self.points.append(point)
        return point

    @property
    def start(self) -> list[Tensor]:
        """The values at the beginning."""
        return self._start

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint; the beginning is not among them, its owner can make it again."""
        return {"next": self._next, "points": [[point.step, point.distance] for point in self.points]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._next = int(state["next"])
        self.points = [DistancePoint(step=int(step), distance=float(distance)) for step, distance in state["points"]]
