"""Rules for matrices that multiply rows: linear layers and plain matrix products."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from batchwright.measure.per_example.axis import ExampleAxis
from batchwright.measure.per_example.contributions import Dense, OuterProducts
from batchwright.measure.per_example.ledger import Use
from batchwright.measure.per_example.recorder import Recorder


def linear(recorder: Recorder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """`torch.nn.functional.linear` with any leading axes."""
    axis = recorder.axis(input.shape[:-1])
    if axis is None or weight.ndim != 2:
        return None
    return _linear(recorder, axis, input, weight, bias)


def matmul(recorder: Recorder, input: Tensor, other: Tensor) -> Tensor | None:
    """`torch.matmul` of rows with a parameter matrix on the right."""
    if recorder.ledger(input) or recorder.read(input) or recorder.ledger(other) is None or other.ndim != 2:
        return None
    axis = recorder.axis(input.shape[:-1])
    return None if axis is None else _linear(recorder, axis, input, other.t(), None)


def addmm(
    recorder: Recorder, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor | None:
    """`torch.addmm` of a bias, rows and a parameter matrix, as in the ``Conv1D`` of transformers."""
    tracked = recorder.ledger(mat1) or recorder.read(mat1)
    if tracked or recorder.ledger(mat2) is None or input.ndim != 1 or beta != 1 or alpha != 1:
        return None
    axis = recorder.axis(mat1.shape[:-1])
    return None if axis is None else _linear(recorder, axis, mat1, mat2.t(), input)


def _linear(recorder: Recorder, axis: ExampleAxis, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _Linear.apply(input, weight, bias, recorder, axis, recorder.open(weight), recorder.open(bias))
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        recorder: Recorder,
        axis: ExampleAxis,
        weight_use: Use | None,
        bias_use: Use | None,
    ) -> Tensor:
        output = F.linear(input, weight, bias)
        # Under autocast the product was taken in the dtype of the output, and so is its gradient.
        needs_input, needs_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(
            input.to(output.dtype) if needs_weight else None, weight.to(output.dtype) if needs_input else None
        )
        ctx.books = recorder, axis, weight_use, bias_use
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        recorder, axis, weight_use, bias_use = ctx.books
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        rows = axis.rows(grad, 1)
        grad_input = grad.matmul(weight) if needs_input else None
        grad_weight = recorder.add(weight_use, OuterProducts(rows, axis.rows(input, 1))) if needs_weight else None
        grad_bias = recorder.add(bias_use, Dense(rows.sum(dim=1))) if needs_bias else None
        return grad_input, grad_weight, grad_bias, None, None, None, None
