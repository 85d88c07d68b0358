"""The generalized Gauss-Newton matrix.

Source: Schraudolph (2002), "Fast curvature matrix-vector products for second-order gradient descent".
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.objectives import Loss
from batchwright.measure.curvature.jacobian_products import JacobianOperator
from batchwright.measure.curvature.loss_split import Forward, LossSplit, OutputLoss
from batchwright.measure.curvature.operator import GRAPH_BYTES
from batchwright.measure.curvature.parts import Part


class GgnOperator(JacobianOperator):
    """``(1/N) sum_n J_n' (Hessian of the loss of output n) J_n``: the Hessian without the curvature of the model.

    It is positive semi-definite where the loss is convex in the output, and equals the Hessian where the model is linear in its
    parameters. The split of the loss is found by calling it with a stand-in for the model; where that cannot be done, an error asks for
    ``forward`` and ``output_loss``.

    Args:
        model: As for `CurvatureOperator`.
        loss: As there.
        batches: As there.
        forward: ``forward(model, batch) -> output``, one tensor with an example a row.
        output_loss: ``output_loss(output, batch) -> (B,)``; together with ``forward`` it must give ``loss``.
        micro_batch_size: As for `CurvatureOperator`.
        graph_bytes: As there.

    Raises:
        InputError: As for `CurvatureOperator`; with the first product, if the loss cannot be split.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Batch | Iterable[Batch],
        *,
        forward: Forward | None = None,
        output_loss: OutputLoss | None = None,
        micro_batch_size: int | None = None,
        graph_bytes: int = GRAPH_BYTES,
    ) -> None:
        self._split = LossSplit(loss, forward, output_loss)
        super().__init__(model, loss, batches, micro_batch_size=micro_batch_size, graph_bytes=graph_bytes)

    def _output_and_middle(self, part: Part) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        output = self._split.output(self._model, part.batch)
        given = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self._split.losses(given, part.batch).sum(), given, create_graph=True)
        if not slope.requires_grad:  # the loss is linear in the output
            return output, torch.zeros_like

        def middle(pushed: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(slope, given, pushed, retain_graph=True, allow_unused=True)
            return torch.zeros_like(pushed) if product is None else product

        return output, middle
