"""Gradient sums of a batch from its micro-batches."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length, split_batch
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.vectors import gradients, trainable
from batchwright.measure.noise_sums import BatchSums, sq_norms


def micro_batch_sums(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    num_micro_batches: int,
    divide_by: Mapping[str, Tensor] | None = None,
) -> BatchSums:
    """Sum of the per-example gradients of a batch, and ``n_j ||g_j||^2`` by parameter added up over its micro-batches.

    Args:
        model: Model whose ``.grad`` may be overwritten.
        loss: One loss an example.
        batch: At least ``num_micro_batches`` examples.
        num_micro_batches: Parts of the batch, as equal as its size allows.
        divide_by: By what the gradient of each parameter is divided, by name; by one where a name is missing.

    Raises:
        InputError: If the batch is too small.
    """
    parameters = trainable(model)
    total: list[Tensor] = []
    weighted = torch.zeros(len(parameters), dtype=torch.float64, device=parameters[0].device)
    num_parts = 0
    for part, num_examples in micro_batch_gradients(model, loss, batch, num_micro_batches, divide_by):
        weighted += sq_norms(part) / num_examples
        if total:
            torch._foreach_add_(total, part)
        else:
            total = part
        num_parts += 1
    return BatchSums(total=total, weighted=weighted, num_parts=num_parts, num_examples=batch_length(batch))


def micro_batch_gradients(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    num_micro_batches: int,
    divide_by: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[list[Tensor], int]]:
    """Sum of the per-example gradients of each micro-batch with its number of examples; arguments as `micro_batch_sums`."""
    length = batch_length(batch)
    if length < num_micro_batches:
        raise InputError(
            f"every batch must hold at least num_micro_batches examples, got {length} for {num_micro_batches}; "
            "measure larger batches or split them into fewer parts"
        )
    parameters = trainable(model)
    divisors = _divisors(model, divide_by)
    for part in split_batch(batch, math.ceil(length / num_micro_batches)):
        for parameter in parameters:
            parameter.grad = None
        losses = example_losses(model, loss, part)
        losses.sum().backward()
        found = gradients(parameters)
        if divisors:
            torch._foreach_div_(found, divisors)
        yield found, len(losses)


def _divisors(model: nn.Module, divide_by: Mapping[str, Tensor] | None) -> list[Tensor]:
    if divide_by is None:
        return []
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, divisor in divide_by.items():
        if name not in named or divisor.shape != named[name].shape:
            shape = tuple(named[name].shape) if name in named else "no such trainable parameter"
            raise InputError(
                f"divide_by must hold tensors of the shapes of the model's parameters, got {tuple(divisor.shape)} for {name!r} "
                f"({shape}); use adam_divisors(model, optimizer)"
            )
    ones = {name: torch.ones_like(parameter) for name, parameter in named.items() if name not in divide_by}
    return [divide_by[name].detach().to(p) if name in divide_by else ones[name] for name, p in named.items()]
