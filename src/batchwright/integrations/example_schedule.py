"""Keep a framework's lr scheduler, which it steps once an optimizer step, at the pace of the examples instead.

A step at ``k`` times the base batch size counts ``k`` steps of the schedule. Progress is rounded up at the end of an epoch, as the
frameworks do when they work out how many steps an epoch has, so a schedule written for the base batch size ends where it would have
ended. At the base batch size nothing is done at all.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

from batchwright.core.checks import check_number

# What a sum of fractions of a step may be off by.
TOLERANCE = 1e-6
# What torch's schedulers write into a parameter group.
WRITTEN = ("lr", "momentum", "betas")


class ExampleSchedule:
    """Call `before` between the optimizer's step and the scheduler's, and `after` when the scheduler has been stepped.

    Args:
        schedulers: Of torch, on one optimizer, each stepped by the framework after each optimizer step; without any it only counts.
        steps_each: Steps of a scheduler for one optimizer step at the base batch size; Accelerate makes one for each rank.
    """

    def __init__(self, schedulers: Sequence[Any] = (), *, steps_each: int = 1) -> None:
        self._schedulers, self._steps_each = list(schedulers), steps_each
        self._progress = 0.0  # optimizer steps of the base batch size since the start
        self._moved = 0  # those that the schedulers have been moved by
        self._last = [scheduler.last_epoch for scheduler in self._schedulers]
        self._kept: list[tuple[dict[str, Any], list[dict[str, Any]], int]] | None = None

    @property
    def num_steps(self) -> int:
        """Whole steps of the base batch size that the examples so far stand for."""
        return math.floor(self._progress + TOLERANCE)

    def before(self) -> None:
        """Remember where the schedule stands, to be able to hold it there."""
        self._kept = [
            (copy.deepcopy(scheduler.state_dict()), _written(scheduler), scheduler.last_epoch)
            for scheduler in self._schedulers
        ]

    def after(self, base_steps: float, *, end_of_epoch: bool) -> None:
        """Step the schedule further, or back to where it was, as the examples of a step ask for.

        Where the optimizer left its step out, and so `before` was not called, the examples count and the schedule follows later.

        Args:
            base_steps: What the step counts: its batch size over the base batch size.
            end_of_epoch: Whether an epoch ends with it, so that a started step counts as a whole one.
        """
        self._progress += check_number("base_steps", base_steps, at_least=0.0)
        if end_of_epoch:
            self._progress = float(math.ceil(self._progress - TOLERANCE))
        if self._kept is None:
            return
        wanted = (self.num_steps - self._moved) * self._steps_each
        for number, (scheduler, (state, written, last)) in enumerate(zip(self._schedulers, self._kept, strict=True)):
            stray = last - self._last[number]  # Lightning steps it also where the optimizer's step was left out
            made = scheduler.last_epoch - last
            if made > max(wanted - stray, 0):
                scheduler.load_state_dict(state)
                _write(scheduler, written)
                made = 0
            for _ in range(wanted - stray - made):
                scheduler.step()
            self._last[number] = scheduler.last_epoch
        self._moved, self._kept = self.num_steps, None

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; the schedulers' own state is the framework's, and must be loaded before this."""
        return {"progress": self._progress, "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._progress, self._moved, self._kept = state["progress"], state["moved"], None
        self._last = [scheduler.last_epoch for scheduler in self._schedulers]

    def start_of_step(self) -> None:
        """Forget the started step, where a resumed framework repeats its examples."""
        self._progress = float(self.num_steps)


def _written(scheduler: Any) -> list[dict[str, Any]]:
    return [
        {name: copy.deepcopy(group[name]) for name in WRITTEN if name in group}
        for group in scheduler.optimizer.param_groups
    ]


def _write(scheduler: Any, written: list[dict[str, Any]]) -> None:
    for group, values in zip(scheduler.optimizer.param_groups, written, strict=True):
        for name, value in values.items():
            if hasattr(group[name], "copy_"):
                group[name].copy_(value)
            else:
                group[name] = value
