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
        schedulers: Of torch, on one optimizer, each stepped by the framework after each optimizer step.
        steps_each: Steps of a scheduler for one optimizer step at the base batch size; Accelerate makes one for each rank.
    """

    def __init__(self, schedulers: Sequence[Any], *, steps_each: int = 1) -> None:
        self._schedulers, self._steps_each = list(schedulers), steps_each
        self._progress = 0.0  # optimizer steps of the base batch size since the start
        self._due = 0  # those that are finished
        self._kept: list[tuple[dict[str, Any], list[dict[str, Any]], int]] | None = None

    def before(self) -> None:
        """Remember where the schedule stands, to be able to hold it there."""
        self._kept = [
            (copy.deepcopy(scheduler.state_dict()), _written(scheduler), scheduler.last_epoch)
            for scheduler in self._schedulers
        ]

    def after(self, base_steps: float, *, end_of_epoch: bool) -> None:
        """Step the schedule further, or back to where it was, as an optimizer step asks for.

        Args:
            base_steps: What the step counts: its batch size over the base batch size.
            end_of_epoch: Whether an epoch ends with it, so that a started step counts as a whole one.
        """
        if self._kept is None:
            return
        self._progress += check_number("base_steps", base_steps, at_least=0.0)
        due = math.floor(self._progress + TOLERANCE)
        if end_of_epoch:
            due = math.ceil(self._progress - TOLERANCE)
            self._progress = float(due)
        wanted, self._due = (due - self._due) * self._steps_each, due
        for scheduler, (state, written, last) in zip(self._schedulers, self._kept, strict=True):
            made = scheduler.last_epoch - last
            if made > wanted:
                scheduler.load_state_dict(state)
                _write(scheduler, written)
                made = 0
            for _ in range(wanted - made):
                scheduler.step()
        self._kept = None

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; the schedulers' own state is the framework's."""
        return {"progress": self._progress, "due": self._due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._progress, self._due, self._kept = state["progress"], state["due"], None


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
