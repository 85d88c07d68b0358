"""The settings of an optimizer that must move when its batch size does, read from a parameter group and written back to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.tasks.optimizers import KINDS

# By the name of their class, torch's own and this library's alike.
CLASS_NAMES: Mapping[str, str] = {kind.class_name: name for name, kind in KINDS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSettings:
    """Settings that hold at one batch size; None where there is no such thing.

    Attributes:
        lr: Learning rate.
        momentum: Momentum of SGD, Muon and Scion, as ``beta`` in ``m <- beta m + …``; the first beta of Adam-type methods.
        dampening: Of SGD's momentum.
        beta2: Decay of the squared gradients in Adam-type methods.
        weight_decay: As in `torch.optim`: added to the gradient by SGD and Adam, times the lr off the parameters by AdamW and Muon.
        ema_decay: Decay a step of an average of the parameters.
        warmup_steps: Optimizer steps of warm-up.
    """

    lr: float
    momentum: float | None = None
    dampening: float = 0.0
    beta2: float | None = None
    weight_decay: float | None = None
    ema_decay: float | None = None
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        check_number("lr", self.lr, at_least=0.0)
        for name in ("momentum", "beta2", "ema_decay"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), at_least=0.0, below=1.0)
        if self.weight_decay is not None:
            check_number("weight_decay", self.weight_decay, at_least=0.0)
        if self.warmup_steps is not None:
            check_int("warmup_steps", self.warmup_steps, at_least=0)


def optimizer_name(optimizer: Optimizer) -> str:
    """``sgd``, ``adam``, ``adamw``, ``muon`` or ``scion``, by the class of the optimizer or the nearest it is made from.

    Raises:
        InputError: If it is none of them.
    """
    for kind in type(optimizer).__mro__:
        if kind.__name__ in CLASS_NAMES:
            name = CLASS_NAMES[kind.__name__]
            decoupled = name == "adam" and any(group.get("decoupled_weight_decay") for group in optimizer.param_groups)
            return "adamw" if decoupled else name
    raise InputError(
        f"optimizer must be one of {', '.join(sorted(CLASS_NAMES))}, got {type(optimizer).__name__}; "
        "name the one whose rules it follows"
    )


def group_name(group: Mapping[str, Any], optimizer: str) -> str:
    """Whose rules a group follows: the optimizer's, or those of what it says it is, as the AdamW groups of our Muon do."""
    own = group.get("optimizer")
    return own if isinstance(own, str) and own in CLASS_NAMES.values() else optimizer


def read_group(group: Mapping[str, Any]) -> OptimizerSettings:
    """The settings of a parameter group."""
    betas = group.get("betas")
    momentum, beta2 = (betas[0], betas[1]) if betas is not None else (group.get("momentum"), None)
    return OptimizerSettings(
        lr=float(group["lr"]),
        momentum=None if momentum is None else float(momentum),
        dampening=float(group.get("dampening", 0.0)),
        beta2=None if beta2 is None else float(beta2),
        weight_decay=float(group["weight_decay"]) if "weight_decay" in group else None,
    )


def write_group(group: dict[str, Any], settings: OptimizerSettings, *, lr: bool = True) -> None:
    """Put settings into a parameter group, into its tensors where it holds tensors; without the learning rate if ``lr`` is false."""
    values: dict[str, Any] = {"lr": settings.lr} if lr else {}
    if settings.weight_decay is not None and "weight_decay" in group:
        values["weight_decay"] = settings.weight_decay
    if "betas" in group:
        old = group["betas"]
        new = (settings.momentum, settings.beta2)
        group["betas"] = tuple(_like(before, after) for before, after in zip(old, new, strict=True))
    elif settings.momentum is not None and "momentum" in group:
        values["momentum"] = settings.momentum
    for name, value in values.items():
        group[name] = _like(group[name], value)


def _like(before: Any, after: float | None) -> Any:
    """The new value, in the old one's tensor where that is one: a compiled or captured step holds on to it."""
    if after is None:
        return before
    return before.fill_(after) if isinstance(before, Tensor) else after
