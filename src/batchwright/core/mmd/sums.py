"""Sums over the pairs of two samples from which estimates, their variances and leave-one-out values are made; one pass, in blocks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.core.kernels.kernel import Kernel, uses
from batchwright.core.kernels.pairs import pairs_of
from batchwright.core.mmd.blocks import cut, default_block


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSums:
    """Sums of ``k`` over pairs of rows, in float64.

    Attributes:
        rows: Sum of each row of the Gram matrix.
        columns: Sum of each column.
        squares: Sum of ``k^2`` over all pairs.
    """

    rows: Tensor
    columns: Tensor
    squares: float

    @property
    def total(self) -> float:
        """Sum of ``k`` over all pairs."""
        return float(self.rows.sum())


@torch.no_grad()
def pair_sums(kernel: Kernel, x: Tensor, y: Tensor | None = None, *, block_size: int | None = None) -> PairSums:
    """The sums over pairs of a row of ``x`` and a row of ``y``, or over pairs of different rows of ``x`` where ``y`` is left out."""
    distance, product = uses(kernel)
    other = x if y is None else y
    side = default_block(x.device) if block_size is None else block_size
    rows = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    columns = torch.zeros(len(other), dtype=torch.float64, device=x.device)
    squares = torch.zeros((), dtype=torch.float64, device=x.device)
    for first in cut(len(x), side):
        for second in cut(len(other), side):
            if y is None and second < first:
                continue  # the mirror image of one that is there
            here, there = slice(*first), slice(*second)
            same = y is None and first == second
            pairs = pairs_of(x[here], None if same else other[there], distance=distance, product=product)
            values = kernel.values(pairs).double()
            if same:
                values.fill_diagonal_(0)
            rows[here] += values.sum(dim=1)
            squares += values.square().sum() * (1 if same or y is not None else 2)
            if y is not None:
                columns[there] += values.sum(dim=0)
            elif not same:
                rows[there] += values.sum(dim=0)
    return PairSums(rows=rows, columns=rows if y is None else columns, squares=float(squares))
