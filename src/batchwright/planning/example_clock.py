"""Drive any lr scheduler of torch by examples instead of steps, so that its schedule survives a changing batch size."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError


class ExampleClock:
    """Call `advance` with the examples of each optimizer step where ``scheduler.step()`` would be called.

    The scheduler is stepped once for every ``examples_per_step`` examples: the batch size for which its milestones or periods were
    written, or any smaller number with the schedule written for that. The learning rate after ``n`` examples is that of
    ``floor(n / examples_per_step)`` plain steps, whatever batch sizes led there, bit by bit; at a constant batch size of
    ``examples_per_step`` it is torch's own. Tokens do as well as examples.

    A change of the batch size scales the learning rate by `scale_lr` (or by `planning.apply_to` with this clock): the factor is
    kept apart from the schedule, so the schedule never sees it. What else a scheduler writes, such as the momentum of
    ``OneCycleLR``, remains the scheduler's.

    Args:
        scheduler: On an optimizer; do not step it otherwise. Not ``ReduceLROnPlateau``, which follows a metric and not a clock.
        examples_per_step: Examples that one step of the schedule stands for.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> clock = ExampleClock(torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5), examples_per_step=32)
        >>> for batch_size in (32, 256, 31):
        ...     optimizer.step()
        ...     clock.advance(batch_size)
        >>> clock.num_examples, optimizer.param_groups[0]["lr"]
        (319, 1.0)
        >>> clock.advance(1)
        >>> optimizer.param_groups[0]["lr"]
        0.5
    """

    def __init__(self, scheduler: LRScheduler, *, examples_per_step: int) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            raise InputError(
                "scheduler must follow a clock, got ReduceLROnPlateau, which follows a metric; call its step(metric) yourself"
            )
        check_int("examples_per_step", examples_per_step, at_least=1)
        self.scheduler = scheduler
        self.examples_per_step = examples_per_step
        self.num_examples = 0
        self._steps = 0
        self._scheduled = [_copy(group["lr"]) for group in self._groups]
        self._factors = [1.0 for _ in self._groups]

    @property
    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.scheduler.optimizer.param_groups
        return groups

    @property
    def lr_factors(self) -> tuple[float, ...]:
        """By what the schedule's learning rate is multiplied, for each parameter group."""
        return tuple(self._factors)

    def advance(self, num_examples: int) -> None:
        """Count the examples of an optimizer step, and set the learning rate of the next."""
        self.num_examples += check_int("num_examples", num_examples, at_least=0)
        due = self.num_examples // self.examples_per_step
        if due > self._steps:
            # Many schedulers reckon from the lr they find, so they find their own.
            self._write([_value(lr) for lr in self._scheduled])
            while self._steps < due:
                self.scheduler.step()
                self._steps += 1
            self._scheduled = [_copy(group["lr"]) for group in self._groups]
        self._apply()

    def scale_lr(self, ratio: float | Sequence[float]) -> None:
        """Multiply the learning rate by ``ratio``, one number or one for each parameter group, from now on."""
        ratios = [ratio] * len(self._factors) if isinstance(ratio, int | float) else list(ratio)
        if len(ratios) != len(self._factors):
            raise InputError(
                f"ratio must hold one number for each of {len(self._factors)} parameter groups, got {len(ratios)}"
            )
        self.set_lr_factors(
            [old * check_number("ratio", new, above=0.0) for old, new in zip(self._factors, ratios, strict=True)]
        )

    def set_lr_factors(self, factors: float | Sequence[float]) -> None:
        """Set the factors themselves, as a controller's ``lr_factor`` does."""
        new = [factors] * len(self._factors) if isinstance(factors, int | float) else list(factors)
        if len(new) != len(self._factors):
            raise InputError(
                f"factors must hold one number for each of {len(self._factors)} parameter groups, got {len(new)}"
            )
        self._factors = [check_number("factors", factor, at_least=0.0) for factor in new]
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs, the scheduler's own state included."""
        return {
            "scheduler": copy.deepcopy(self.scheduler.state_dict()),
            "examples_per_step": self.examples_per_step,
            "num_examples": self.num_examples,
            "steps": self._steps,
            "scheduled": [_value(lr) for lr in self._scheduled],
            "factors": list(self._factors),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, with the learning rates of that instant.

        Raises:
            InputError: If it is that of another clock.
        """
        if state["examples_per_step"] != self.examples_per_step or len(state["factors"]) != len(self._factors):
            raise InputError(
                f"state must be that of a clock of {self.examples_per_step} examples a step with {len(self._factors)} "
                f"parameter groups, "
                f"got {state['examples_per_step']} and {len(state['factors'])}; make the clock as it was"
            )
        self.scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))
        self.num_examples, self._steps = state["num_examples"], state["steps"]
        self._factors = list(state["factors"])
        self._write(state["scheduled"])
        self._scheduled = [_copy(group["lr"]) for group in self._groups]
        self._apply()

    def _apply(self) -> None:
        self._write([_value(lr) * factor for lr, factor in zip(self._scheduled, self._factors, strict=True)])

    def _write(self, lrs: Sequence[float]) -> None:
        for group, lr in zip(self._groups, lrs, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr


def _copy(lr: Any) -> Any:
    return lr.clone() if isinstance(lr, Tensor) else lr


def _value(lr: Any) -> float:
    return float(lr)
