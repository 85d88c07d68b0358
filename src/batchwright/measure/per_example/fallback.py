"""Norms of per-example gradients for any model: `torch.func` a few examples at a time, or one example after another."""

import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from batchwright.core.batches import Batch, batch_length, map_tensors, slice_batch, tensors_of
from batchwright.core.objectives import Loss, example_losses
from batchwright.measure.per_example.contributions import row_sq_norms

# Gradients held at once.
GRADIENT_BYTES = 2**26


def fallback_sq_norms(model: nn.Module, loss: Loss, batch: Batch, names: Collection[str]) -> dict[str, Tensor]:
    """Squared norm ``(B,)`` of each example's gradient of the parameters named, by name, each example taken alone."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in names}
    try:
        return _vmapped(model, loss, batch, parameters)
    except (
        RuntimeError,
        ValueError,
        NotImplementedError,
    ):  # control flow on values, or an operation without a batching rule
        return _looped(model, loss, batch, parameters)


class _LossModule(nn.Module):
    """The loss of one example as a module, so that `functional_call` reaches the parameters of the model."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, example: Batch) -> Tensor:
        return example_losses(self.model, self.loss, example)[0]


def _vmapped(model: nn.Module, loss: Loss, batch: Batch, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    module = _LossModule(model, loss)
    leaves = [leaf for leaf in tensors_of(batch) if leaf.ndim > 0]

    def one_loss(values: dict[str, Tensor], leaves: list[Tensor]) -> Tensor:
        example = _rebuild(batch, iter([leaf.unsqueeze(0) for leaf in leaves]))
        result: Tensor = functional_call(module, {f"model.{name}": value for name, value in values.items()}, (example,))
        return result

    values = {name: parameter.detach() for name, parameter in parameters.items()}
    gradient_of: Callable[..., Any] = grad(one_loss)
    gradients = vmap(gradient_of, in_dims=(None, 0), randomness="different")
    num_bytes = sum(value.numel() * value.element_size() for value in values.values())
    length = batch_length(batch)
    size = max(1, min(length, GRADIENT_BYTES // max(1, num_bytes)))
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    with warnings.catch_warnings():
        # An operation without a batching rule runs example by example, which is what a fallback is for.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        for start in range(0, length, size):
            for name, rows in gradients(values, [leaf[start : start + size] for leaf in leaves]).items():
                found[name].append(row_sq_norms(rows))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _rebuild(batch: Batch, leaves: Iterator[Tensor]) -> Batch:
    return map_tensors(lambda leaf: next(leaves) if leaf.ndim > 0 else leaf, batch)


def _looped(model: nn.Module, loss: Loss, batch: Batch, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    rows = []
    for i in range(batch_length(batch)):
        losses = example_losses(model, loss, slice_batch(batch, i, i + 1))
        rows.append(plain_sq_norms(model, losses[0], parameters))
    return dict(zip(parameters, torch.stack(rows, dim=1), strict=True))


def plain_sq_norms(model: nn.Module, value: Tensor, names: Collection[str]) -> Tensor:
    """Squared norm of the gradient of one number to each parameter named, in float64, in the model's order.

    Leaves ``.grad`` empty.
    """
    model.zero_grad()
    value.backward()  # not `torch.autograd.grad`, which reentrant checkpoints refuse
    zero = torch.zeros(1, dtype=torch.float64, device=value.device)
    grads = [parameter.grad for name, parameter in model.named_parameters() if name in names]
    found = torch.cat([zero if grad is None else row_sq_norms(grad.to_dense()[None]) for grad in grads])
    model.zero_grad()
    return found
