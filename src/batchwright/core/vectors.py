"""Parameters and gradients seen as one vector of ``D`` numbers, without copying them into one."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.errors import TaskError

BLOCK = 4096
ALIGNED = 16
LARGE = 16 * BLOCK


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that require a gradient, each once, in the model's order.

    Raises:
        TaskError: If there is none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise TaskError("model must have at least one parameter with requires_grad=True, got none")
    return parameters


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradient of each parameter; zeros where a parameter took no part."""
    found = []
    for parameter in parameters:
        grad = parameter.grad  # each look makes a Python object, and so does detach()
        if grad is None:
            found.append(torch.zeros_like(parameter))
        else:
            found.append(grad.detach() if grad.requires_grad else grad)
    return found


def sq_norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Squared Euclidean norm of the tensors seen as one vector, exact to float32's last digits at any size."""
    small = [tensor for tensor in tensors if tensor.numel() < LARGE]
    parts = [torch.stack(torch._foreach_norm(small, 2, dtype=torch.float64)).square().sum()] if small else []
    for tensor in tensors:
        if tensor.numel() >= LARGE:
            blocks, rest = _blocks(tensor)
            parts.append(torch.linalg.vector_norm(blocks, dim=1).double().square().sum() + rest.double().square().sum())
    return torch.stack(parts).sum()


class FlatCopy:
    """A copy of a list of tensors in one buffer a kind, in which their norm as one vector is a single reduction.

    On a CPU the norm of a model's gradients costs a fifth of `sq_norm`, which goes tensor by tensor.

    Args:
        tensors: To be copied; later ones must have their shapes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._buffers: list[Tensor] = []
        self.views: list[Tensor] = [torch.empty(0)] * len(tensors)
        kinds = {(tensor.device, tensor.dtype) for tensor in tensors}
        for device, dtype in sorted(kinds, key=str):
            places, length = [], 0
            for number, tensor in enumerate(tensors):
                if (tensor.device, tensor.dtype) == (device, dtype):
                    places.append((number, length))
                    length += -(-tensor.numel() // ALIGNED) * ALIGNED
            buffer = torch.zeros(-(-length // BLOCK) * BLOCK, device=device, dtype=dtype)
            for number, start in places:
                tensor = tensors[number]
                part = buffer[start : start + tensor.numel()]
                # The copy keeps the layout, so that going through both at once is fast.
                last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
                self.views[number] = part.as_strided(tensor.shape, tensor.stride()) if last else part.view(tensor.shape)
            self._buffers.append(buffer)
        self.copy_(tensors)

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """Take the values of ``tensors``."""
        torch._foreach_copy_(self.views, list(tensors))

    def subtract_(self, tensors: Sequence[Tensor]) -> None:
        """Take ``tensors`` off."""
        torch._foreach_sub_(self.views, list(tensors))

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether it was made for tensors of these shapes and kinds."""
        return len(tensors) == len(self.views) and all(
            view.shape == tensor.shape and view.dtype == tensor.dtype and view.device == tensor.device
            for view, tensor in zip(self.views, tensors, strict=True)
        )

    def sq_norm(self) -> Float[Tensor, ""]:
        """Squared Euclidean norm, exact to float32's last digits at any size."""
        parts = [norms.double().square().sum() for norms in self.block_norms()]
        return torch.stack([part.to(parts[0].device) for part in parts]).sum()

    def block_norms(self) -> list[Tensor]:
        """Euclidean norms of blocks, one tensor a kind; the squares of all of them add up to `sq_norm`, by one operation a kind."""
        found = []
        for buffer in self._buffers:
            wide = torch.float32 if buffer.dtype in (torch.float16, torch.bfloat16) else buffer.dtype
            found.append(torch.linalg.vector_norm(buffer.view(-1, BLOCK), dim=1, dtype=wide))
        return found


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Inner product of two lists of tensors seen as vectors, exact to float32's last digits at any size."""
    parts = []
    for a, b in zip(left, right, strict=True):
        (a_blocks, a_rest), (b_blocks, b_rest) = _blocks(a), _blocks(b)
        # A bmm of rows and columns took forty times as long on a CPU.
        blocks = torch.linalg.vecdot(a_blocks, b_blocks).double().sum()
        parts.append(blocks + (a_rest.double() * b_rest.double()).sum())
    return torch.stack(parts).sum()


def _blocks(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor as rows of ``BLOCK`` numbers, and what is left over.

    One float32 sum over millions of squares loses four digits on a CPU; sums over rows, added in float64, lose none that matter and
    cost no more.
    """
    flat = tensor.detach().reshape(-1)
    whole = flat.numel() // BLOCK * BLOCK
    return flat[:whole].view(-1, BLOCK), flat[whole:]


def flatten(tensors: Iterable[Tensor]) -> Float[Tensor, " D"]:
    """The tensors copied into one vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def num_parameters(model: nn.Module) -> int:
    """Number of trainable parameters ``D``."""
    return sum(parameter.numel() for parameter in trainable(model))
