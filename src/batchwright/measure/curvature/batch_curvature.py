"""Gradient of one batch and the curvature of that batch's own loss, by exact second derivatives.

Second derivatives are those of automatic differentiation: where a network has kinks (ReLU, max-pooling), the pieces' own, without
the jumps between them. A finite difference of gradients sees the jumps too, and on such networks it measures something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from batchwright.core.batches import Batch
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.vectors import dot, sq_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchCurvature:
    """How one batch's loss bends along that batch's gradient.

    Attributes:
        sq_norm: ``||g||^2``.
        curvature: ``g^T H g`` with the Hessian of the same batch.
        num_examples: Examples of the batch.
    """

    sq_norm: float
    curvature: float
    num_examples: int

    @property
    def sharpness(self) -> float:
        """``g^T H g / ||g||^2``; NaN for a gradient that is exactly zero."""
        return self.curvature / self.sq_norm if self.sq_norm != 0 else float("nan")


def batch_curvature(model: nn.Module, loss: Loss, batch: Batch, parameters: Sequence[nn.Parameter]) -> BatchCurvature:
    """``||g||^2`` and ``g^T H g`` of one batch by a double backward pass, at 2.5 to 3.3 plain steps.

    Args:
        model: Model in the mode in which it is to be measured.
        loss: One loss an example.
        batch: ``B`` examples; ``g`` and ``H`` belong to their mean loss.
        parameters: Parameters that make up the gradient.
    """
    grads, num_examples = differentiable_gradient(model, loss, batch, parameters)
    direction = [grad.detach() for grad in grads]
    product = hessian_product(grads, parameters, direction)
    return BatchCurvature(
        sq_norm=float(sq_norm(direction)), curvature=float(dot(product, direction)), num_examples=num_examples
    )


def differentiable_gradient(
    model: nn.Module, loss: Loss, batch: Batch, parameters: Sequence[nn.Parameter]
) -> tuple[list[Tensor], int]:
    """The gradient of the mean loss with the graph that a second derivative needs, and the number of examples.

    Fused attention has no second derivative, so attention runs by its plain formula here.
    """
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        losses = example_losses(model, loss, batch)
        found = torch.autograd.grad(losses.mean(), parameters, create_graph=True, allow_unused=True)
    return _filled(found, parameters), len(losses)


def hessian_product(
    grads: Sequence[Tensor],
    parameters: Sequence[nn.Parameter],
    direction: Sequence[Tensor],
    *,
    keep_graph: bool = False,
) -> list[Tensor]:
    """Hessian times ``direction``, from a gradient with its graph."""
    with torch.enable_grad():
        along = [(grad * part).sum() for grad, part in zip(grads, direction, strict=True) if grad.requires_grad]
        if not along:  # a loss that is linear in the parameters
            return [torch.zeros_like(parameter) for parameter in parameters]
        found = torch.autograd.grad(torch.stack(along).sum(), parameters, retain_graph=keep_graph, allow_unused=True)
    return _filled(found, parameters)


def _filled(found: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Zeros where a parameter took no part."""
    return [
        torch.zeros_like(parameter) if part is None else part for part, parameter in zip(found, parameters, strict=True)
    ]
