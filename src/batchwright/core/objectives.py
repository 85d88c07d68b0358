"""Per-example objectives: ``loss(model, batch) -> (B,)``, one loss an example; the mean is taken here and nowhere else."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length, slice_batch, split_batch, split_sizes
from batchwright.core.errors import InputError, TaskError

Loss = Callable[[nn.Module, Batch], Tensor]


def example_losses(model: nn.Module, loss: Loss, batch: Batch) -> Float[Tensor, " B"]:
    """The loss of each example, checked to be one number an example.

    Raises:
        TaskError: If the loss returned something else than a floating tensor of shape ``(B,)``.
    """
    losses = loss(model, batch)
    length = batch_length(batch)
    if not isinstance(losses, Tensor):
        raise TaskError(
            f"loss must return a tensor of shape ({length},), one loss an example, got {type(losses).__name__}"
        )
    if losses.shape != (length,) or not losses.is_floating_point():
        raise TaskError(
            f"loss must return one floating-point loss an example, shape ({length},), got shape {tuple(losses.shape)} of "
            f"{str(losses.dtype).removeprefix('torch.')}; use reduction='none' and average only what belongs to one example"
        )
    return losses


def accumulate_gradient(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    *,
    micro_batch_size: int | None = None,
    sizes: Sequence[int] | None = None,
    denominator: float | None = None,
    before_micro_batch: Callable[[bool], None] | None = None,
    after_micro_batch: Callable[[int], None] | None = None,
    weights: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """Add the gradient of the mean loss of ``batch`` to ``.grad``, micro-batch by micro-batch.

    Each micro-batch adds the sum of its losses over the size of the whole batch, so a short last one has its right weight.

    Args:
        model: Model whose parameters receive gradients.
        loss: One loss an example.
        batch: ``B`` examples.
        micro_batch_size: Examples in one forward pass; all of them when left out.
        sizes: Of each micro-batch, in place of ``micro_batch_size``; they add up to ``B``. One of size 0 is a pass of one example
            that counts nothing, for ranks that must all make as many passes.
        denominator: What sums of losses are divided by, where the batch is a part of a larger one; ``B`` where left out.
        before_micro_batch: Called before each micro-batch, with whether it is the last.
        after_micro_batch: Called with the number of examples of each micro-batch after its backward pass.
        weights: By what each example's gradient is multiplied; its loss counts in the returned mean as it is.

    Returns:
        The mean loss of the batch, detached, on the model's device; nothing waits for the device.

    Raises:
        InputError: If the batch is empty, ``micro_batch_size`` is below 1, or ``sizes`` do not add up to the batch.
        TaskError: If the loss is not one number an example.
    """
    length = batch_length(batch)
    if length == 0:
        raise InputError("batch must hold at least one example, got none; leave empty batches out")
    if sizes is not None and sum(sizes) != length and any(sizes):
        raise InputError(f"sizes must add up to the batch of {length}, got {sum(sizes)}; split the whole of it")
    total: Tensor | None = None
    micro_batch_size = length if micro_batch_size is None else micro_batch_size
    parts = list(split_batch(batch, micro_batch_size) if sizes is None else split_sizes(batch, sizes))
    done = 0
    for number, part in enumerate(parts):
        size = batch_length(part)
        if before_micro_batch is not None:
            before_micro_batch(number == len(parts) - 1)
        losses = example_losses(model, loss, part if size else slice_batch(batch, 0, 1))
        mean_part = (losses.sum() if size else losses.sum() * 0.0) / (length if denominator is None else denominator)
        weighed = mean_part
        if weights is not None and size:
            weighed = (losses * weights[done : done + size].to(losses)).sum() / (
                length if denominator is None else denominator
            )
        done += size
        weighed.backward()
        total = mean_part.detach() if total is None else total + mean_part.detach()
        if after_micro_batch is not None:
            after_micro_batch(size)
    assert total is not None  # a batch holds at least one example
    return total


def mean_loss(model: nn.Module, loss: Loss, batches: Sequence[Batch]) -> float:
    """Mean loss over all examples of ``batches``, without gradients and in the model's present mode."""
    with torch.no_grad():
        sums = torch.stack([example_losses(model, loss, batch).double().sum() for batch in batches])
    return float(sums.sum()) / sum(batch_length(batch) for batch in batches)
