"""Products with ``J' M J / N``: the Jacobian of what each example gives, and a symmetric matrix between.

Gauss-Newton, Fisher and empirical Fisher differ in ``M`` alone. ``J v`` is the derivative of ``J' u`` to ``u``, two passes in
reverse, so it exists wherever second derivatives do and needs no rule for forward differentiation.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.measure.curvature.operator import CurvatureOperator
from batchwright.measure.curvature.parts import Part


@dataclass(kw_only=True, slots=True, eq=False)
class JacobianGraph:
    """What the examples of a part give, ``J' u`` as a function of ``u``, and the matrix between.

    Attributes:
        output: One example a row.
        direction: ``u``, of the shape of the output.
        pulled: ``J' u``, one a parameter; None where the output does not depend on it.
        middle: Product of ``M`` with something of the shape of the output, block by block of an example.
    """

    output: Tensor
    direction: Tensor
    pulled: Sequence[Tensor | None]
    middle: Callable[[Tensor], Tensor]


class JacobianOperator(CurvatureOperator):
    """``J' M J / N``; arguments, attributes and errors as `CurvatureOperator`."""

    @abstractmethod
    def _output_and_middle(self, part: Part) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What each example gives, with its graph, and the product with ``M`` there."""

    def _build(self, part: Part) -> JacobianGraph | None:
        output, middle = self._output_and_middle(part)
        if not output.requires_grad:
            return None
        # The pulled-back direction is linear in it, so its value does not matter.
        direction = torch.zeros_like(output, requires_grad=True)
        pulled = torch.autograd.grad(output, self._parameters, direction, create_graph=True, allow_unused=True)
        return JacobianGraph(output=output, direction=direction, pulled=pulled, middle=middle)

    def _product(self, graph: JacobianGraph | None, pieces: list[Tensor], keep: bool) -> Sequence[Tensor | None]:
        if graph is None:
            return [None] * len(pieces)
        pairs = [(pulled, piece) for pulled, piece in zip(graph.pulled, pieces, strict=True) if pulled is not None]
        pulled, vectors = zip(*pairs, strict=True)
        (pushed,) = torch.autograd.grad(pulled, graph.direction, vectors, retain_graph=True)
        weighted = graph.middle(pushed) / self.num_examples
        return torch.autograd.grad(graph.output, self._parameters, weighted, retain_graph=keep, allow_unused=True)
