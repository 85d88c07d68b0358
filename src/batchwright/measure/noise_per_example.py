"""Gradient sums of a batch from exact per-example norms, of all parameters or of some of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch, batch_length
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.vectors import gradients, trainable
from batchwright.measure.noise_sums import BatchSums
from batchwright.measure.per_example import PerExampleNorms, per_example_sq_norms_by_layer


class PerExampleSums:
    """Sum of the per-example gradients of a batch, and of their squared norms, by parameter.

    The first batch is also measured by the checked `per_example_sq_norms_by_layer`; where one pass does not give the same norms, as
    with operations that have no rule or with random numbers, that one is used throughout.

    Args:
        model: Model whose ``.grad`` may be overwritten; BatchNorm layers in eval mode.
        loss: One loss an example.
        names: Parameters whose norms are wanted; all trainable ones when left out.
    """

    def __init__(self, model: nn.Module, loss: Loss, names: Sequence[str] | None = None) -> None:
        self._model = model
        self._loss = loss
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._names = list(named) if names is None else list(names)
        self._measured = [named[name] for name in self._names]
        self._one_pass: bool | None = None

    def __call__(self, batch: Batch) -> BatchSums:
        """The sums of one batch."""
        length = batch_length(batch)
        parameters = trainable(self._model)
        checked = None if self._one_pass else self._checked(batch)
        for parameter in parameters:
            parameter.grad = None
        if self._one_pass is False:
            example_losses(self._model, self._loss, batch).sum().backward()
            sums = checked
        else:
            with PerExampleNorms(self._model, num_examples=length, parameters=self._measured) as norms:
                example_losses(self._model, self._loss, batch).sum().backward()
                found = norms.squared_by_parameter(example_weight=1.0, followed_only=True)
            sums = None
            if len(found) == len(self._names):
                sums = torch.stack([found[name].sum() for name in self._names])
            if checked is not None:
                whole = float(checked.sum())
                self._one_pass = sums is not None and torch.allclose(sums, checked, rtol=1e-4, atol=1e-6 * whole)
                sums = sums if self._one_pass else checked
        assert sums is not None  # in one pass all parameters were followed on the first batch
        return BatchSums(total=gradients(parameters), weighted=sums, num_parts=length, num_examples=length)

    def _checked(self, batch: Batch) -> Tensor:
        found = per_example_sq_norms_by_layer(self._model, self._loss, batch)
        return torch.stack([found[name].sum() for name in self._names])
