"""The noise of a step from micro-batch gradients that are never added before their norm is taken.

Between two backward passes the sum so far is taken out of ``.grad``, so each pass leaves the gradient of its micro-batch alone. That
saves the copy and the subtraction of `MicroBatchNorms`, and the sum is that of plain accumulation to the last bit: the same additions,
made here and not in the backward pass.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.vectors import BLOCK, LARGE
from batchwright.measure.running_noise import StepNoise, noise_of_parts


class SeparateNorms:
    """Collects the squared norms of the micro-batch gradients of one step; nothing waits for the device before `step_noise`.

    Call `before_backward` before and `after_micro_batch` after each backward pass; in between ``.grad`` is that of the micro-batch,
    and at all other times the sum so far, as in plain accumulation.

    Args:
        parameters: Whose gradients are accumulated, in this process alone.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._sums: list[Tensor | None] = []
        self._sizes: list[int | Tensor] = []
        self._norms: list[Tensor] = []

    def before_backward(self) -> None:
        """Take the sum so far out of ``.grad``."""
        self._sums = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None

    def after_micro_batch(self, num_examples: int | Tensor) -> None:
        """Take in the micro-batch of ``num_examples`` examples, or of this sum of weights, and put the sum back."""
        olds, news = [], []
        fresh: list[Tensor] = []
        for parameter, old in zip(self._parameters, self._sums, strict=True):
            new = parameter.grad
            if new is not None:
                fresh.append(new)
            if old is not None:
                parameter.grad = old
                if new is not None:
                    olds.append(old)
                    news.append(new)
        self._norms.append(_norms(fresh))
        if olds:
            with torch.no_grad():
                torch._foreach_add_(olds, news)
        self._sums = []
        self._sizes.append(num_examples)

    def step_noise(self) -> StepNoise | None:
        """The estimates of this step, before its gradient is clipped; None where fewer than two micro-batches had a weight."""
        whole = _norms([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        sums = [norms.double().square_().sum() for norms in (*self._norms, whole)]
        *sq_norms, mean_sq_norm = torch.stack(sums).tolist()
        return noise_of_parts(sq_norms, mean_sq_norm, [float(size) for size in self._sizes])


def _norms(tensors: Sequence[Tensor]) -> Float[Tensor, " P"]:
    """Norms of parts of the tensors, whose squares add up to that of all; float32's last digits are right at any size."""
    small = [tensor.detach() for tensor in tensors if tensor.numel() <= LARGE]
    parts: list[Tensor] = []
    for dtype in {tensor.dtype for tensor in small}:
        wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        parts += torch._foreach_norm([tensor for tensor in small if tensor.dtype == dtype], 2, dtype=wide)
    found = [torch.stack([part.to(parts[0]) for part in parts])] if parts else []
    for tensor in tensors:
        if tensor.numel() > LARGE:  # one sum over millions of squares loses digits
            flat = tensor.detach().reshape(-1)
            whole = flat.numel() // BLOCK * BLOCK
            found += [torch.linalg.vector_norm(flat[:whole].view(-1, BLOCK), dim=1), flat[whole:]]
    return torch.cat([part.to(found[0]) for part in found]) if found else torch.zeros(1)
