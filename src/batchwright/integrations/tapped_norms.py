"""Norms of micro-batches where the last gradient can be seen only after it was clipped."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from batchwright.measure.running_noise import MicroBatchNorms


class TappedNorms(MicroBatchNorms):
    """Takes the last gradient of a step as the backward pass leaves it, before the framework clips or unscales it in place.

    Call `tap` before the last backward pass; the gradients that it makes are copied one by one.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._parameters = parameters
        self._caught: dict[int, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def tap(self) -> None:
        """Copy what the next backward pass leaves in ``.grad``."""
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._catch(number))
            for number, parameter in enumerate(self._parameters)
        ]

    def after_micro_batch(self, num_examples: int | Tensor, accumulated: list[Tensor] | None = None) -> None:
        """Take in a micro-batch, from the copies where it was tapped."""
        if self._hooks and accumulated is None:
            self.untap()
            # A parameter that took no part has what it had.
            empty = [torch.zeros_like(parameter) for parameter in self._parameters]
            before = [view.clone() for view in self.copy.views] if self.copy is not None and self._sizes else empty
            accumulated = [self._caught.get(number, tensor) for number, tensor in enumerate(before)]
            self._caught = {}
        super().after_micro_batch(num_examples, accumulated)

    def untap(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _catch(self, number: int) -> Callable[[Tensor], None]:
        def catch(parameter: Tensor) -> None:
            if parameter.grad is not None:
                self._caught[number] = parameter.grad.detach().clone()

        return catch
