"""From an accumulated gradient to the optimizer's step: unscaled, put right and clipped."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def finish_gradient(
    parameters: Sequence[nn.Parameter],
    optimizer: Optimizer,
    *,
    scaler: Any,
    factor: float | Tensor,
    max_grad_norm: float | None,
) -> Tensor | None:
    """Make ``.grad`` the gradient of the mean loss, clipped.

    Args:
        parameters: All that have gradients.
        optimizer: Whose parameters the scaler has scaled.
        scaler: `torch.amp.GradScaler` or None.
        factor: What the unscaled gradient must be multiplied by; 1.0 costs nothing.
        max_grad_norm: None for no clipping.

    Returns:
        The norm before clipping, on the device; None without clipping.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    if isinstance(factor, Tensor) or factor != 1.0:
        torch._foreach_mul_([parameter.grad for parameter in parameters if parameter.grad is not None], factor)
    if max_grad_norm is None:
        return None
    norm: Tensor = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    return norm


def optimizer_step(optimizer: Optimizer, scaler: Any) -> bool:
    """Step, and tell whether the step was made: with a scaler it is not where a gradient is not finite."""
    if scaler is None:
        optimizer.step()
        return True
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return bool(scaler.get_scale() >= before)  # it backs off if and only if a gradient was not finite
