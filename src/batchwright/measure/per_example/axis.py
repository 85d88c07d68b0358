"""Where the examples lie among the leading axes of a layer's input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExampleAxis:
    """The leading axes, seen as ``(num_before, num_examples, the rest)``.

    Attributes:
        num_examples: Examples ``B``.
        num_before: Rows ahead of the example axis: 1 where examples come first, the length ``T`` where time does.
    """

    num_examples: int
    num_before: int = 1

    def rows(self, tensor: Tensor, num_feature_axes: int) -> Tensor:
        """Shape ``(B, T, *features)``: all that belongs to one example in one row; a view where that can be."""
        leading = tensor.shape[: tensor.ndim - num_feature_axes]
        features = tensor.shape[tensor.ndim - num_feature_axes :]
        num_after = math.prod(leading) // (self.num_before * self.num_examples)
        rows = tensor.reshape(self.num_before, self.num_examples, num_after, *features)
        return rows.transpose(0, 1).reshape(self.num_examples, self.num_before * num_after, *features)


def find_axis(leading: Sequence[int], num_examples: int, *, time_first: bool = False) -> ExampleAxis | None:
    """The example axis of a tensor with these leading axes, or None where there is none to be seen.

    Examples are taken to be the first axis, also where further axes were flattened into it; else the second axis. With
    ``time_first`` they are the second axis, also where it was flattened into the first.
    """
    if not leading:
        return None
    second = len(leading) > 1 and leading[1] == num_examples
    if time_first:
        if second:
            return ExampleAxis(num_examples, leading[0])
        flattened = len(leading) == 1 and leading[0] % num_examples == 0
        return ExampleAxis(num_examples, leading[0] // num_examples) if flattened else None
    if leading[0] == num_examples:
        return ExampleAxis(num_examples)
    if second:
        return ExampleAxis(num_examples, leading[0])
    return ExampleAxis(num_examples) if leading[0] > 0 and leading[0] % num_examples == 0 else None
