"""Products of the Hessian of the mean loss with vectors.

Source: Pearlmutter (1994), "Fast exact multiplication by the Hessian"; here the gradient is differentiated once more in
reverse. On a CNN (3 convolutions, 128 images, one CPU thread) the gradient with its graph takes 1.0 plain steps and each
further product 1.5, exact to float32. Forward over reverse takes 2.4 a product, and finite differences 1.0 to 2.0 with an
error that a kink of ReLU or max-pooling between the two points makes as large as it likes (`benchmarks/curvature.py`).
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.objectives import Loss, example_losses
from batchwright.core.vectors import flatten
from batchwright.measure.curvature.operator import CurvatureOperator, Vector
from batchwright.measure.curvature.parts import Part


class HessianOperator(CurvatureOperator):
    """The Hessian of the mean loss over all examples; arguments, attributes and errors as `CurvatureOperator`.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> operator = HessianOperator(model, lambda m, x: m(x).squeeze(1).square(), torch.eye(2))
        >>> operator.matvec(torch.tensor([1.0, 3.0])).tolist()
        [1.0, 3.0]
    """

    def gradient(self) -> Float[Tensor, " D"]:
        """Gradient of the mean loss, at no cost where the graphs are held."""
        with self.held():
            total = [torch.zeros_like(parameter) for parameter in self._parameters]
            for index in range(len(self._parts)):
                graph, _ = self._graph(index)
                for sum_, gradient in zip(total, graph, strict=True):
                    if gradient is not None:
                        sum_ += gradient.detach()
        return flatten(total).to(self.dtype)

    def _build(self, part: Part) -> Sequence[Tensor | None]:
        losses = example_losses(self._model, self._loss, part.batch)
        share = losses.sum() / self.num_examples
        if not share.requires_grad:
            return [None] * len(self._parameters)
        return torch.autograd.grad(share, self._parameters, create_graph=True, allow_unused=True)

    def _product(self, graph: Sequence[Tensor | None], pieces: list[Tensor], keep: bool) -> Sequence[Tensor | None]:
        # A gradient without a graph does not depend on the parameters: its rows of the Hessian are zero.
        pairs = [
            (gradient, piece)
            for gradient, piece in zip(graph, pieces, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not pairs:
            return [None] * len(pieces)
        gradients, vectors = zip(*pairs, strict=True)
        return torch.autograd.grad(gradients, self._parameters, vectors, retain_graph=keep, allow_unused=True)


def hvp(
    model: nn.Module,
    loss: Loss,
    batches: Batch | Iterable[Batch],
    vector: Vector,
    *,
    micro_batch_size: int | None = None,
) -> Vector:
    """Product of the Hessian of the mean loss with one vector, in the form in which that was given.

    Args:
        model: Any model, in the mode in which it is to be measured; it stays as it was.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: One batch (a tensor, a tuple or a mapping) or several (a list or another iterable).
        vector: Flat ``(D,)``, or one tensor for each trainable parameter.
        micro_batch_size: Examples in one forward pass; a whole batch when left out.

    Raises:
        InputError: If there is no example, the vector has another size, or a batch with BatchNorm in train mode would be cut.
        TaskError: If the loss is not one number an example, or the model has no trainable parameter.
    """
    operator = HessianOperator(model, loss, batches, micro_batch_size=micro_batch_size, graph_bytes=0)
    return operator.matvec(vector)
