"""Optimizer settings that follow the batch size while somebody else's schedule writes them: they are in force during the step alone.

Between two steps the parameter groups hold what the framework and its lr scheduler wrote, so no scheduler ever meets a scaled value,
whether it reckons from the lr it finds, from ``base_lrs`` or from a metric, and a checkpoint holds the schedule's own values. A hook of
the optimizer puts the settings of the present batch size in place before each step and takes them away after it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from batchwright.integrations.options import Options
from batchwright.planning import OptimizerSettings, batch_change, optimizer_name
from batchwright.planning.optimizer_settings import read_group, write_group


class SettingsInForce:
    """Keeps the optimizer's steps at the settings of a batch size.

    Args:
        optimizer: Of torch or of this library; not a framework's wrapper around it.
        options: Which rules.
        base_batch_size: Examples in a step for which the settings that the schedule writes are right.
        on_step: Called after each step that was made; a gradient scaler leaves out those that overflow.

    Raises:
        InputError: If the optimizer is not known, or a rule does not hold for it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        options: Options,
        *,
        base_batch_size: int,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = options.optimizer or optimizer_name(optimizer)
        self.batch_size = self.base_batch_size = base_batch_size
        self.lr_factor: float | None = None
        self.noise_scale = math.inf
        self._optimizer, self._options, self._on_step = optimizer, options, on_step
        self._scheduled: list[OptimizerSettings] | None = None
        # Where a rule is refused it is refused now, not at the first change.
        for group in optimizer.param_groups:
            self._changed(read_group(group), 2 * base_batch_size)
        self.lr = float(optimizer.param_groups[0]["lr"])
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def set(self, *, batch_size: int, lr_factor: float | None, noise_scale: float) -> None:
        """What the next steps shall follow.

        Args:
            batch_size: In examples.
            lr_factor: The lr over what the schedule writes, where a policy says so; None leaves it to the optimizer's rule.
            noise_scale: Where the lr of SGD stops following the batch; ``inf`` where it is not known.
        """
        self.batch_size, self.lr_factor, self.noise_scale = batch_size, lr_factor, noise_scale

    def settings(self) -> tuple[OptimizerSettings, ...]:
        """The settings of each parameter group at the next step, as the schedule stands now."""
        scheduled = self._scheduled or [read_group(group) for group in self._optimizer.param_groups]
        return tuple(self._wanted(settings) for settings in scheduled)

    def remove(self) -> None:
        """Leave the optimizer as it was found."""
        self._restore()
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The settings are in place inside: for whoever reads them from the optimizer."""
        self._apply()
        try:
            yield
        finally:
            self._restore()

    def _wanted(self, settings: OptimizerSettings) -> OptimizerSettings:
        if self.lr_factor is not None:
            return OptimizerSettings(
                lr=settings.lr * self.lr_factor,
                momentum=settings.momentum,
                dampening=settings.dampening,
                beta2=settings.beta2,
                weight_decay=settings.weight_decay,
            )
        return settings if self.batch_size == self.base_batch_size else self._changed(settings, self.batch_size)

    def _changed(self, settings: OptimizerSettings, batch_size: int) -> OptimizerSettings:
        options = self._options
        return batch_change(
            self.name,
            settings,
            base_batch_size=self.base_batch_size,
            batch_size=batch_size,
            rule=options.lr_rule,
            momentum_rule=options.momentum_rule,
            beta2_rule=options.beta2_rule,
            weight_decay_rule=options.weight_decay_rule,
            noise_scale=self.noise_scale if self.name == "sgd" else math.inf,
        )

    def _apply(self) -> None:
        self._restore()  # an exception inside a step leaves its settings behind
        self._scheduled = [read_group(group) for group in self._optimizer.param_groups]
        wanted = [self._wanted(settings) for settings in self._scheduled]
        self.lr = wanted[0].lr
        for group, before, after in zip(self._optimizer.param_groups, self._scheduled, wanted, strict=True):
            if after != before:
                write_group(group, after)

    def _restore(self) -> None:
        if self._scheduled is None:
            return
        for group, settings in zip(self._optimizer.param_groups, self._scheduled, strict=True):
            if read_group(group) != settings:
                write_group(group, settings)
        self._scheduled = None

    def _before_step(self, *_: Any) -> None:
        self._apply()

    def _after_step(self, *_: Any) -> None:
        self._restore()
        self._on_step()
