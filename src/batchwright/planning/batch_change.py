"""What must move when the batch size does: the settings of an optimizer at another batch size, by the rules of `batch_rules`."""

import math
from dataclasses import replace

from torch.optim import Optimizer

from batchwright.core.checks import check_number
from batchwright.planning.batch_rules import Change, find_rule
from batchwright.planning.example_clock import ExampleClock
from batchwright.planning.optimizer_settings import (
    OptimizerSettings,
    group_name,
    optimizer_name,
    read_group,
    write_group,
)


def batch_change(
    optimizer: str,
    settings: OptimizerSettings,
    *,
    base_batch_size: int,
    batch_size: int,
    rule: str | None = None,
    momentum_rule: str | None = None,
    beta2_rule: str | None = None,
    weight_decay_rule: str | None = None,
    noise_scale: float = math.inf,
    tokens_ratio: float = 1.0,
) -> OptimizerSettings:
    """Settings at ``batch_size`` from those that hold at ``base_batch_size``.

    Args:
        optimizer: ``sgd``, ``adam``, ``adamw``, ``muon`` or ``scion``.
        settings: At ``base_batch_size``; what is None stays None.
        base_batch_size: In examples.
        batch_size: In examples.
        rule: Of the lr: ``gain``, ``linear``, ``square-root``, ``token-budget`` or ``keep``. The optimizer's own where left out;
            for SGD that is ``gain`` with a noise scale, else ``linear``.
        momentum_rule: ``keep``, ``half-life`` or ``token-budget``; the optimizer's own where left out.
        beta2_rule: ``half-life`` or ``keep``.
        weight_decay_rule: ``keep`` or ``time-scale``; the optimizer's own where left out.
        noise_scale: In examples; where the learning rate stops following the batch.
        tokens_ratio: New over old budget of tokens, for Scion.

    Raises:
        InputError: If a rule does not hold for the optimizer, with the reason, or an argument breaks a rule.

    Example:
        >>> before = OptimizerSettings(lr=1e-3, momentum=0.9, beta2=0.99, weight_decay=0.1)
        >>> after = batch_change("adamw", before, base_batch_size=64, batch_size=256)
        >>> after.lr, round(after.beta2, 4), after.weight_decay
        (0.002, 0.9606, 0.2)
    """
    check_number("base_batch_size", base_batch_size, above=0.0)
    check_number("batch_size", batch_size, above=0.0)
    check_number("tokens_ratio", tokens_ratio, above=0.0)
    if not math.isinf(noise_scale):
        check_number("noise_scale", noise_scale, above=0.0)
    change = Change(
        base_batch_size=base_batch_size, batch_size=batch_size, noise_scale=noise_scale, tokens_ratio=tokens_ratio
    )
    if rule is None and optimizer == "sgd" and math.isinf(noise_scale):
        rule = "linear"
    asked = {"lr": rule, "momentum": momentum_rule, "beta2": beta2_rule, "weight_decay": weight_decay_rule}
    rules = {
        setting: find_rule(setting, optimizer, asked.get(setting))
        for setting in ("lr", "momentum", "beta2", "weight_decay", "ema_decay", "warmup_steps")
    }
    found = {
        setting: rule.apply(settings, change)
        for setting, rule in rules.items()
        if rule is not None and getattr(settings, setting) is not None
    }
    momentum = found.get("momentum")
    if optimizer == "sgd" and momentum is not None and settings.momentum is not None:
        found["lr"] *= _steady(settings.momentum, settings.dampening) / _steady(momentum, settings.dampening)
    decay_rule = rules["weight_decay"]
    if "weight_decay" in found and decay_rule is not None and decay_rule.name == "time-scale" and found["lr"] > 0:
        found["weight_decay"] *= change.ratio * settings.lr / found["lr"]
    warmup_steps = found.pop("warmup_steps", None)
    if warmup_steps is not None:
        settings = replace(settings, warmup_steps=int(warmup_steps))
    return replace(settings, **found)  # type: ignore[arg-type]


def apply_to(
    optimizer: Optimizer,
    *,
    base_batch_size: int,
    batch_size: int,
    clock: ExampleClock | None = None,
    name: str | None = None,
    rule: str | None = None,
    momentum_rule: str | None = None,
    beta2_rule: str | None = None,
    weight_decay_rule: str | None = None,
    noise_scale: float = math.inf,
    tokens_ratio: float = 1.0,
) -> tuple[OptimizerSettings, ...]:
    """Edit the parameter groups of an optimizer for another batch size, each from its own settings.

    A learning rate that a scheduler drives must be moved by its clock, else the scheduler writes over it: give the clock.

    Args:
        optimizer: Of `torch.optim`, or of this library.
        base_batch_size: For which its present settings hold.
        batch_size: For which they shall hold.
        clock: What drives the learning rate; its factors take the change of the learning rate then.
        name: Whose rules it follows; by its class where left out.
        rule: As all that follow, of `batch_change`.
        momentum_rule: As above.
        beta2_rule: As above.
        weight_decay_rule: As above.
        noise_scale: As above.
        tokens_ratio: As above.

    Returns:
        The new settings of each group.

    Raises:
        InputError: As `batch_change`, or if the optimizer is not known; nothing is edited then.
    """
    name = name or optimizer_name(optimizer)
    before = [read_group(group) for group in optimizer.param_groups]
    after = [
        batch_change(
            group_name(group, name),
            settings,
            base_batch_size=base_batch_size,
            batch_size=batch_size,
            rule=rule,
            momentum_rule=momentum_rule,
            beta2_rule=beta2_rule,
            weight_decay_rule=weight_decay_rule,
            noise_scale=noise_scale,
            tokens_ratio=tokens_ratio,
        )
        for group, settings in zip(optimizer.param_groups, before, strict=True)
    ]
    for group, settings in zip(optimizer.param_groups, after, strict=True):
        write_group(group, settings, lr=clock is None)
    if clock is not None:
        # At an lr of zero, as at the start of a warm-up, the ratio is that of any other lr.
        ones = [
            batch_change(
                name,
                replace(settings, lr=1.0),
                base_batch_size=base_batch_size,
                batch_size=batch_size,
                rule=rule,
                momentum_rule=momentum_rule,
                noise_scale=noise_scale,
                tokens_ratio=tokens_ratio,
            ).lr
            for settings in before
        ]
        clock.scale_lr(ones)
    return tuple(after)


def _steady(momentum: float, dampening: float) -> float:
    """Steady length of heavy ball's step over that of one gradient, without the learning rate."""
    return (1 - dampening) / (1 - momentum) if momentum > 0 else 1.0
