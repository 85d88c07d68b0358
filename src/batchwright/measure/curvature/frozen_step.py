"""The step that an optimizer would take with one batch's gradient, its state left as it is."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from batchwright.core.errors import InputError


class FrozenStep:
    """Steps a copy of an optimizer on copies of the parameters, again and again from the same state.

    The copies are float64: a step is the difference of two parameter values, of which float32 would keep few digits.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        """Copy the optimizer's options and state.

        Args:
            optimizer: Its class must be constructible from ``param_groups`` alone, as those of ``torch.optim`` are.
            parameters: Parameters whose steps are wanted, in this order.

        Raises:
            InputError: If a parameter is not the optimizer's.
        """
        self._parameters = list(parameters)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = sum(id(parameter) not in held for parameter in parameters)
        if missing:
            raise InputError(
                f"optimizer must hold every trainable parameter of the model, {missing} of {len(parameters)} are not in it; "
                "add them or set requires_grad=False"
            )
        self._copies = {
            id(parameter): nn.Parameter(parameter.detach().to(torch.float64, copy=True))
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        groups = [
            {**group, "params": [self._copies[id(parameter)] for parameter in group["params"]]}
            for group in optimizer.param_groups
        ]
        make: Callable[[list[dict[str, Any]]], Optimizer] = type(optimizer)
        self._optimizer = make(groups)
        self._start = {key: copy.detach().clone() for key, copy in self._copies.items()}
        self._state = {
            id(parameter): {name: _widened(value) for name, value in optimizer.state[parameter].items()}
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter in optimizer.state
        }

    def step(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The step for these gradients, in float64, one tensor a parameter; the next call starts from the same state again."""
        self._optimizer.state.clear()
        for key, state in self._state.items():
            self._optimizer.state[self._copies[key]] = deepcopy(state)
        with torch.no_grad():
            for key, copy in self._copies.items():
                copy.copy_(self._start[key])
                copy.grad = None
            for parameter, grad in zip(self._parameters, grads, strict=True):
                self._copies[id(parameter)].grad = grad.detach().double()
        self._optimizer.step()
        return [self._copies[id(each)].detach() - self._start[id(each)] for each in self._parameters]


def _widened(value: Any) -> Any:
    """A copy, with parameters' moments in float64; counters keep their type."""
    if isinstance(value, Tensor):
        is_moment = value.is_floating_point() and value.ndim > 0
        return value.detach().to(torch.float64 if is_moment else value.dtype, copy=True)
    return deepcopy(value)
