"""The AdamW step of a parameter group inside another optimizer, with the state of `torch.optim.AdamW`.

Source: Loshchilov & Hutter (2019), arXiv:1711.05101, algorithm 2, as in torch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ADAMW_DEFAULTS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


@torch.no_grad()
def adamw_step(group: Mapping[str, Any], states: Mapping[Tensor, dict[str, Any]]) -> None:
    """One step of all parameters of the group that have a gradient; ``.grad`` is left as it is.

    Args:
        group: With ``lr``, ``betas``, ``eps`` and ``weight_decay``; lr and betas may be tensors of one element.
        states: The optimizer's state; ``step``, ``exp_avg`` and ``exp_avg_sq`` are put in.
    """
    lr, eps = float(group["lr"]), float(group["eps"])
    beta1, beta2 = (float(beta) for beta in group["betas"])
    by_step: dict[int, list[Tensor]] = {}
    for parameter in group["params"]:
        if parameter.grad is None:
            continue
        state = states[parameter]
        if "exp_avg" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        by_step.setdefault(int(state["step"]), []).append(parameter)
    for step, parameters in by_step.items():
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means = [states[parameter]["exp_avg"] for parameter in parameters]
        squares = [states[parameter]["exp_avg_sq"] for parameter in parameters]
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        sizes = list(torch._foreach_sqrt(squares))
        torch._foreach_div_(sizes, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(sizes, eps)
        torch._foreach_addcdiv_(parameters, means, sizes, -lr / (1 - beta1**step))
