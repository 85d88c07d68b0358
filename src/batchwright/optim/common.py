"""What the optimizers of this room do alike: evaluating a closure, and loading a state that lacks some of their settings."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """The loss of a closure, with gradients on; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def with_settings_of(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state in which each group has the optimizer's own value of whatever setting it lacks.

    A state of another number of groups is given back as it is; torch says what is wrong with it.
    """
    groups = state_dict["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        return state_dict
    filled = [
        {**{name: value for name, value in own.items() if name not in ("params", "param_names")}, **saved}
        for own, saved in zip(optimizer.param_groups, groups, strict=True)
    ]
    return {**state_dict, "param_groups": filled}
