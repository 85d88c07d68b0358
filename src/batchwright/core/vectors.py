"""Parameters and gradients seen as one vector of ``D`` numbers, without copying them into one."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.errors import TaskError


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
    return [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach() for parameter in parameters
    ]


def sq_norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Squared Euclidean norm of the tensors seen as one vector, summed in float64."""
    norms = torch._foreach_norm(list(tensors))
    return torch.stack([norm.double() for norm in norms]).square().sum()


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Inner product of two lists of tensors seen as vectors, summed in float64."""
    parts = [torch.dot(a.reshape(-1), b.reshape(-1)).double() for a, b in zip(left, right, strict=True)]
    return torch.stack(parts).sum()


def flatten(tensors: Iterable[Tensor]) -> Float[Tensor, " D"]:
    """The tensors copied into one vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def num_parameters(model: nn.Module) -> int:
    """Number of trainable parameters ``D``."""
    return sum(parameter.numel() for parameter in trainable(model))
