"""What a run of the engine has used so far: steps, examples, and the weights of examples, such as tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchwright.core.errors import InputError
from batchwright.training.ranks import Ranks


@dataclass(kw_only=True)
class Counts:
    """Counters of a run, on all ranks together.

    Attributes:
        num_steps: Steps that the optimizer has made.
        num_updates: The same with those that were left out or overflowed.
        num_examples: Examples used.
        num_tokens: Sum of all weights, on the device; None before the first.
        weight_per_example: Mean weight of an example in the last update, on the device; None before the first.
    """

    num_steps: int = 0
    num_updates: int = 0
    num_examples: int = 0
    num_tokens: Tensor | None = None
    weight_per_example: Tensor | None = None

    def expected_weight(self, weight: Tensor, num_examples: int, ranks: Ranks) -> Tensor:
        """Expected weight of an example: that of the last update, or of the first micro-batches of all ranks.

        Args:
            weight: Of the micro-batch at hand.
            num_examples: Of it.
            ranks: All call this at the same place.
        """
        if self.weight_per_example is None:
            counts = torch.stack([weight, torch.as_tensor(num_examples, dtype=weight.dtype, device=weight.device)])
            found = ranks.sum(counts)
            self.weight_per_example = torch.where(found[0] > 0, found[0] / found[1], torch.ones_like(found[0]))
        return self.weight_per_example

    def add_weight(self, weight: Tensor, num_examples: int) -> None:
        """Count the weight of an update on all ranks; nothing waits for the device."""
        self.weight_per_example = torch.where(weight > 0, weight / num_examples, torch.ones_like(weight))
        counted = weight.double()
        self.num_tokens = counted if self.num_tokens is None else self.num_tokens + counted

    def tokens(self) -> int:
        """Sum of all weights, rounded; it waits for the device.

        Raises:
            InputError: If no update had weights.
        """
        if self.num_tokens is None:
            raise InputError(
                "policy counts tokens, got none; call update.backward(losses, weights) with the tokens of each loss"
            )
        return round(float(self.num_tokens))

    def to_state(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return dict(self.__dict__)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> "Counts":
        """The counters that `to_state` described."""
        found: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in state.items()
        }
        return cls(**found)
