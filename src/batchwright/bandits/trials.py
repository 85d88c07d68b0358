"""The trials of a bandit: what was asked, what came back, what is pending and what failed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.core.errors import InputError

PENDING, DONE, FAILED = 0, 1, 2
STATUSES = ("pending", "done", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial.

    Attributes:
        id: Its number from 0, in the order of asking.
        round: Its round, from 0.
        point: One value a dimension.
        value: As told; None while pending and where it failed.
        status: ``pending``, ``done`` or ``failed``.
    """

    id: int
    round: int
    point: tuple[float, ...]
    value: float | None
    status: str


class Trials:
    """A growing table of trials, as tensors."""

    def __init__(self, dim: int, width: int, device: torch.device) -> None:
        self.points = torch.zeros(0, dim, dtype=torch.float64, device=device)
        self.encoded = torch.zeros(0, width, dtype=torch.float64, device=device)
        self.index = torch.zeros(0, dtype=torch.int64)
        self.round = torch.zeros(0, dtype=torch.int64)
        self.value = torch.zeros(0, dtype=torch.float64)
        self.status = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.points)

    def add(self, points: Tensor, encoded: Tensor, index: Tensor, number: int) -> None:
        """Pending trials of round ``number``; ``index`` is their place in the pool of that round."""
        count = len(points)
        self.points = torch.cat([self.points, points])
        self.encoded = torch.cat([self.encoded, encoded])
        self.index = torch.cat([self.index, index])
        self.round = torch.cat([self.round, torch.full((count,), number)])
        self.value = torch.cat([self.value, torch.full((count,), torch.nan, dtype=torch.float64)])
        self.status = torch.cat([self.status, torch.full((count,), PENDING)])

    def tell(self, ids: Sequence[int], values: Tensor) -> None:
        """Give values; one that is not finite is a failure.

        Raises:
            InputError: If a trial is not pending.
        """
        index = torch.as_tensor(list(ids), dtype=torch.int64)
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= len(self)):
            raise InputError(f"ids must be of trials that were asked, 0 to {len(self) - 1}, got {list(ids)[:8]}")
        known = [int(each) for each in index if int(self.status[each]) != PENDING]
        if known or len(set(index.tolist())) != len(index):
            raise InputError(f"ids must be of pending trials, each once, got {known[:8] or list(ids)[:8]}")
        finite = torch.isfinite(values)
        self.value[index] = torch.where(finite, values, torch.nan)
        self.status[index] = torch.where(finite, DONE, FAILED)

    def find(self, points: Tensor) -> list[int]:
        """Ids of the pending trials at points; where a point was asked more than once, the first that is left.

        Raises:
            InputError: If there is none.
        """
        waiting: dict[tuple[float, ...], list[int]] = {}
        for number in (self.status == PENDING).nonzero()[:, 0].tolist():
            waiting.setdefault(tuple(self.points[number].tolist()), []).append(number)
        found = []
        for point in points.tolist():
            ids = waiting.get(tuple(point))
            if not ids:
                raise InputError(
                    f"points must be pending ones, got {point}; tell what ask() gave, or give the ids of the trials"
                )
            found.append(ids.pop(0))
        return found

    def row(self, number: int) -> Trial:
        """One trial."""
        status = int(self.status[number])
        return Trial(
            id=number,
            round=int(self.round[number]),
            point=tuple(self.points[number].tolist()),
            value=float(self.value[number]) if status == DONE else None,
            status=STATUSES[status],
        )
