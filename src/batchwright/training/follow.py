"""The settings of an optimizer follow the batch size through a run: always from those of its first batch size, so nothing drifts."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch.optim import Optimizer

from batchwright.core.errors import InputError
from batchwright.planning.batch_change import batch_change
from batchwright.planning.example_clock import ExampleClock
from batchwright.planning.optimizer_settings import (
    OptimizerSettings,
    group_name,
    optimizer_name,
    read_group,
    write_group,
)

RULE_NAMES = frozenset({"rule", "momentum_rule", "beta2_rule", "weight_decay_rule"})


class Follower:
    """Puts learning rate, momentum, beta2 and weight decay of each parameter group at the rules' values for a batch size.

    The learning rate is moved by a factor on what it is, so a schedule of the user's or of a clock goes on; the rest is set.

    Args:
        optimizer: With the settings that are right at ``base_batch_size``.
        base_batch_size: In examples.
        clock: What drives the learning rate by examples, if anything does.
        name: Whose rules the optimizer follows; by its class where left out.
        rules: Names of rules by the keywords of `planning.batch_change`; the optimizer's own where left out.

    Raises:
        InputError: If a rule is unknown or does not hold for the optimizer.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        base_batch_size: int,
        clock: ExampleClock | None = None,
        name: str | None = None,
        rules: Mapping[str, str] | None = None,
    ) -> None:
        self._optimizer, self._clock = optimizer, clock
        self._rules = dict(rules or {})
        unknown = sorted(set(self._rules) - RULE_NAMES)
        if unknown:
            raise InputError(f"rules must be named {', '.join(sorted(RULE_NAMES))}, got {unknown[0]!r}")
        self._name = name
        if name is None and self._rules:
            self._name = optimizer_name(optimizer)
        self._base_batch_size = base_batch_size
        self._base = [read_group(group) for group in optimizer.param_groups]
        self._factors = [1.0 for _ in self._base]
        self._started = [1.0 for _ in self._base] if clock is None else list(clock.lr_factors)
        if self._rules:
            self._at(base_batch_size, math.inf if self._rules.get("rule") != "gain" else float(base_batch_size))

    @property
    def lr_factors(self) -> tuple[float, ...]:
        """By what the batch size has multiplied the learning rate of each group."""
        return tuple(self._factors)

    def lr_at(self, batch_size: int, *, noise_scale: float = math.inf) -> float:
        """Learning rate of the first group after `change_batch_size`, which is not made; without a clock."""
        return self._lr(0, self._at(batch_size, noise_scale)[0].lr)

    def change_batch_size(self, batch_size: int, *, noise_scale: float = math.inf) -> None:
        """Go to the settings for ``batch_size``; where the noise scale is known, the learning rate stops following the batch there."""
        found = self._at(batch_size, noise_scale)
        for group, settings in zip(self._optimizer.param_groups, found, strict=True):
            write_group(group, settings, lr=False)
        self._set_factors([settings.lr for settings in found])

    def set_lr_factor(self, factor: float) -> None:
        """Go to a policy's own learning rate: this factor on that of the first batch size."""
        self._set_factors([factor for _ in self._base])

    def _at(self, batch_size: int, noise_scale: float) -> list[OptimizerSettings]:
        self._name = self._name or optimizer_name(self._optimizer)
        rules: dict[str, Any] = dict(self._rules)
        if rules.get("rule") == "gain" and math.isinf(noise_scale):
            rules["rule"] = "linear"  # its limit
        return [
            batch_change(
                group_name(group, self._name),
                replace(settings, lr=1.0),
                base_batch_size=self._base_batch_size,
                batch_size=batch_size,
                noise_scale=noise_scale,
                **rules,
            )
            for group, settings in zip(self._optimizer.param_groups, self._base, strict=True)
        ]

    def _set_factors(self, factors: list[float]) -> None:
        if factors == self._factors:
            return
        if self._clock is not None:
            self._clock.set_lr_factors([first * f for first, f in zip(self._started, factors, strict=True)])
        else:
            for number, (group, factor) in enumerate(zip(self._optimizer.param_groups, factors, strict=True)):
                write_group(group, OptimizerSettings(lr=self._lr(number, factor)))
        self._factors = factors

    def _lr(self, number: int, factor: float) -> float:
        now, base, old = float(self._optimizer.param_groups[number]["lr"]), self._base[number].lr, self._factors[number]
        # From the first learning rate where nobody else has moved it: so a size met again has its lr to the last bit.
        return base * factor if now == base * old or not old else now * factor / old

    def state_dict(self) -> dict[str, Any]:
        """Plain values; the optimizer's own settings are in its own state."""
        return {
            "base_batch_size": self._base_batch_size,
            "base": [asdict(settings) for settings in self._base],
            "factors": list(self._factors),
            "started": list(self._started),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the optimizer must be loaded by its own."""
        if len(state["base"]) != len(self._base):
            raise InputError(
                f"state must be that of an optimizer with {len(self._base)} parameter groups, got {len(state['base'])}; "
                "make it as it was"
            )
        self._base_batch_size = state["base_batch_size"]
        self._base = [OptimizerSettings(**settings) for settings in state["base"]]
        self._factors, self._started = list(state["factors"]), list(state["started"])
