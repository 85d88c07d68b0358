"""Exact norms of the gradients of single examples, for any model whose examples do not depend on each other.

Each operation on a parameter that has a rule gives its norms from one forward and one backward pass over the batch; the
parameters of other operations, and a model in which the rules do not find the examples, are measured example by example.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length, slice_batch, split_batch
from batchwright.core.checks import check_int
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.preserve import RandomState, preserved
from batchwright.core.vectors import trainable
from batchwright.measure.per_example.fallback import fallback_sq_norms, plain_sq_norms
from batchwright.measure.per_example.recording import PerExampleNorms
from batchwright.measure.per_example.separate import mixed_examples_error, refuse_batch_statistics


def per_example_grad_norms(
    model: nn.Module, loss: Loss, batch: Batch, *, chunk_size: int | None = None, squared: bool = False
) -> Float[Tensor, " B"]:
    """Norm of the gradient of each example's own loss over all trainable parameters; not divided by ``B``.

    Exact to rounding for linear, convolution, embedding and norm layers, multi-head attention, shared and raw parameters; what has
    no rule, such as recurrent layers, is measured with `torch.func`, which is slower and exact too. Dropout in train mode, and
    other random numbers, are drawn once for the batch; parameters without a rule are then measured under other draws.

    Args:
        model: Model in the mode in which it is to be measured; BatchNorm layers must be in eval mode.
        loss: ``loss(model, batch) -> (B,)``, one loss an example, of that example alone.
        batch: ``B`` examples.
        chunk_size: Examples in one forward pass; all of them when left out.
        squared: Return squared norms.

    Returns:
        Norms in float64, in the order of the batch. Model, gradients and generators stay as they were.

    Raises:
        InputError: If examples depend on each other, as by a BatchNorm layer that uses the statistics of the batch.
        TaskError: If the loss is not one number an example, or the model has no trainable parameter.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> norms = per_example_grad_norms(model, lambda m, x: m(x).squeeze(1), torch.ones(2, 3))
        >>> norms.round(decimals=3).tolist()
        [2.0, 2.0]
    """
    sq_norms = per_example_sq_norms_by_layer(model, loss, batch, chunk_size=chunk_size)
    total = torch.stack(list(sq_norms.values())).sum(dim=0)
    return total if squared else total.sqrt()


def per_example_sq_norms_by_layer(
    model: nn.Module, loss: Loss, batch: Batch, *, chunk_size: int | None = None
) -> dict[str, Float[Tensor, " B"]]:
    """Squared norm of each example's gradient of each trainable parameter, by the parameter's name.

    A parameter that several modules share has its first name, and the norm of the sum over them. The squares of one example add up
    to that of `per_example_grad_norms`, to which the arguments and errors belong too.
    """
    if chunk_size is not None:
        check_int("chunk_size", chunk_size, at_least=1)
    trainable(model)
    refuse_batch_statistics(model)
    length = batch_length(batch)
    with preserved(model):
        parts = _measure(model, loss, split_batch(batch, chunk_size or length))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _measure(model: nn.Module, loss: Loss, batches: Iterable[Batch]) -> list[dict[str, Tensor]]:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parts: list[dict[str, Tensor]] = []
    checked: set[int] = set()  # where the examples are seen to lie depends on their number
    follow = True
    for batch in batches:
        found: dict[str, Tensor] = {}
        if follow:
            start = _Start(model)
            found, eps = _followed(model, loss, batch)
            if found and batch_length(batch) not in checked:
                checked.add(batch_length(batch))
                end = _Start(model)
                follow = _agrees(model, loss, batch, found, eps, start)
                end.go_back()
                found = found if follow else {}
        rest = [name for name in names if name not in found]
        if rest:
            found.update(fallback_sq_norms(model, loss, batch, rest))
        parts.append({name: found[name] for name in names})
    return parts


def _followed(model: nn.Module, loss: Loss, batch: Batch) -> tuple[dict[str, Tensor], float]:
    """Squared norms of the parameters whose operations all have rules, and the epsilon of their coarsest factors."""
    with PerExampleNorms(model, num_examples=batch_length(batch), keep_gradient=False) as norms:
        try:
            example_losses(model, loss, batch).sum().backward()
        except RuntimeError as error:
            if "once_differentiable" not in str(error):
                raise
            return {}, 0.0  # the loss differentiates the model itself
        return norms.squared_by_parameter(example_weight=1.0, followed_only=True), norms.coarsest_eps


def _agrees(model: nn.Module, loss: Loss, batch: Batch, found: dict[str, Tensor], eps: float, start: "_Start") -> bool:
    """Whether the norms of one example are those of plain autograd, from two examples at the cost of a few ``1/B`` of a step.

    The rules take the examples to lie along certain axes; a model may have them elsewhere.

    Raises:
        InputError: If they differ because the examples depend on each other.
    """
    if batch_length(batch) == 1:
        return True
    names = list(found)
    small = slice_batch(batch, 0, 2)
    start.go_back()
    losses = example_losses(model, loss, small)
    is_random = start.random_numbers_were_drawn()
    plain = plain_sq_norms(model, losses[1], names)
    if is_random:  # the whole batch had other draws, so the two examples are followed again with these
        start.go_back()
        found, eps = _followed(model, loss, small)
        if set(names) - found.keys():
            return False
    tolerance = 10 * eps**0.5

    def close(sq_norms: Tensor) -> bool:
        # A gradient that is zero but for rounding, as that of a bias ahead of a norm layer, is judged against the whole.
        return torch.allclose(sq_norms, plain, rtol=tolerance, atol=float(tolerance**2 * plain.sum()), equal_nan=True)

    if close(torch.stack([found[name][1] for name in names])):
        return True
    if not is_random:
        start.go_back()
        alone = example_losses(model, loss, slice_batch(batch, 1, 2))[0]
        if not close(plain_sq_norms(model, alone, names)):
            raise mixed_examples_error("another gradient for one example beside others than alone")
    return False


class _Start:
    """A state to which random generators and buffers go back, so that a forward pass can be made again."""

    def __init__(self, model: nn.Module) -> None:
        self._random = RandomState.capture()
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def go_back(self) -> None:
        self._random.restore()
        for buffer, value in self._buffers:
            buffer.copy_(value)

    def random_numbers_were_drawn(self) -> bool:
        then, now = self._random, RandomState.capture()
        states = zip((then.torch_cpu, *then.torch_cuda), (now.torch_cpu, *now.torch_cuda), strict=True)
        return not all(torch.equal(old, new) for old, new in states)
