"""Density of the eigenvalues of a Hessian or any curvature matrix, by stochastic Lanczos quadrature.

Sources: Golub & Meurant (2010), "Matrices, Moments and Quadrature", chapter 6; Ubaru et al. (2017), "Fast estimation of
tr(f(A)) via stochastic Lanczos quadrature"; Ghorbani et al. (2019), arXiv:1901.10159, section 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.objectives import Loss
from batchwright.core.statistics import Interval, mean_interval
from batchwright.measure.curvature.lanczos import krylov
from batchwright.measure.curvature.operator import GRAPH_BYTES, CurvatureOperator
from batchwright.measure.curvature.products import HessianOperator

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpectralDensity:
    """Share of the eigenvalues around each point of a grid, and the quadrature it was drawn from.

    Attributes:
        grid: Eigenvalues, rising.
        density: Share of the eigenvalues per unit of eigenvalue at each; its integral over all numbers is 1.
        nodes: Ritz values, one random start a row, padded with 0.
        weights: Share of the eigenvalues that each node stands for; each row sums to 1, padded with 0.
        width: Standard deviation of the normal curve that each node is drawn with.
        dim: Eigenvalues in all, ``D``.
        num_products: Products with the matrix.
    """

    grid: Array
    density: Array
    nodes: Array
    weights: Array
    width: float
    dim: int
    num_products: int

    def moment(self, power: int, level: float = 0.95) -> Interval:
        """Mean of the eigenvalues to a power, with a Student interval over the random starts.

        Unbiased for powers up to ``2 num_steps - 1``; times ``dim``, power 1 is the trace and power 2 the squared Frobenius norm.
        """
        check_int("power", power, at_least=0)
        return mean_interval((self.weights * self.nodes**power).sum(axis=1), level)

    def share_above(self, bound: float, level: float = 0.95) -> Interval:
        """Share of the eigenvalues above ``bound``, with a Student interval over the random starts."""
        return mean_interval((self.weights * (self.nodes > bound)).sum(axis=1), level)


def spectral_density(
    model: nn.Module,
    loss: Loss,
    batches: Batch | Iterable[Batch],
    *,
    num_starts: int = 4,
    num_steps: int = 24,
    num_points: int = 256,
    width: float | None = None,
    micro_batch_size: int | None = None,
    graph_bytes: int = GRAPH_BYTES,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """Estimate the density of the Hessian's eigenvalues at the model's present parameters.

    Args:
        model: Any model, in the mode in which it is to be measured; it stays as it was.
        loss: ``loss(model, batch) -> (B,)``, one loss an example.
        batches: One batch (a tensor, a tuple or a mapping) or several (a list or another iterable).
        num_starts: Random starts; they give the intervals.
        num_steps: Products from each; the number of nodes. ``num_starts * num_steps`` products in all, ``num_steps`` vectors held.
        num_points: Points of the grid.
        width: Standard deviation of the curve around a node, in units of eigenvalue; a hundredth of the range of the nodes
            when left out.
        micro_batch_size: Examples in one forward pass; a whole batch when left out.
        graph_bytes: Memory that graphs of several parts may hold between products, beside that of the part at work.
        generator: For the starts; seed 0 when left out.

    Raises:
        InputError: If an argument is out of range, `CurvatureOperator` refuses model or batches, or a product is not finite.
        TaskError: If the loss is not one number an example, or the model has no trainable parameter.
    """
    operator = HessianOperator(model, loss, batches, micro_batch_size=micro_batch_size, graph_bytes=graph_bytes)
    return operator_spectral_density(
        operator, num_starts=num_starts, num_steps=num_steps, num_points=num_points, width=width, generator=generator
    )


def operator_spectral_density(
    operator: CurvatureOperator,
    *,
    num_starts: int = 4,
    num_steps: int = 24,
    num_points: int = 256,
    width: float | None = None,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """Estimate the density of the eigenvalues of any curvature operator; arguments and errors as `spectral_density`."""
    for name, value in (("num_starts", num_starts), ("num_steps", num_steps), ("num_points", num_points)):
        check_int(name, value, at_least=2 if name == "num_points" else 1)
    if width is not None:
        check_number("width", width, above=0.0)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    before = operator.num_products
    nodes, weights = np.zeros((2, num_starts, min(num_steps, operator.dim)))
    with operator.held():
        for row in range(num_starts):
            matrix = krylov(operator, operator.random_vector(generator), num_steps)
            if matrix is None:
                raise InputError(
                    "products must be finite, got a Hessian that is not; look for NaN in loss and parameters"
                )
            values, vectors = np.linalg.eigh(matrix)
            nodes[row, : len(values)] = values
            weights[row, : len(values)] = vectors[0] ** 2
    low, high = float(nodes[weights > 0].min()), float(nodes[weights > 0].max())
    scale = width if width is not None else max(high - low, 1e-6 * max(abs(low), abs(high), 1e-6)) / 100
    grid = np.linspace(low - 4 * scale, high + 4 * scale, num_points)
    curves = np.exp(-0.5 * ((grid - nodes[..., None]) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
    return SpectralDensity(
        grid=grid,
        density=(weights[..., None] * curves).sum(axis=1).mean(axis=0),
        nodes=nodes,
        weights=weights,
        width=scale,
        dim=operator.dim,
        num_products=operator.num_products - before,
    )
