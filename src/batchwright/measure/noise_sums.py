"""Sums over blocks of consecutive batches: all that the noise-scale estimates and their jackknife need.

The batches are at one parameter point, so their gradients are pooled (docs/decisions/0002).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.core.vectors import LARGE, dot, sq_norm

NUM_BLOCKS = 40
# The block sums are kept for the interval; a large model gets fewer of them rather than more memory.
MAX_BLOCK_BYTES = 2**30
MIN_BLOCKS = 10

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSums:
    """What one batch gives.

    Attributes:
        total: Sum of its per-example gradients.
        weighted: ``sum_j n_j ||g_j||^2`` over its parts, of mean gradient ``g_j`` and size ``n_j``; one entry a parameter, or
            whatever squares an estimator adds up.
        num_parts: Number of parts.
        num_examples: Number of examples.
    """

    total: list[Tensor]
    weighted: Float[Tensor, " S"]
    num_parts: int
    num_examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledSums:
    """Sums over ``K`` blocks of batches, by parameter ``P``, as arrays.

    Attributes:
        whole: Squared norm of the sum of all gradients, shape ``(P,)``.
        without: The same with each block left out, shape ``(P, K)``.
        weighted: ``BatchSums.weighted`` of each block, shape ``(S, K)``.
        num_parts: Parts in each block.
        num_examples: Examples in each block.
        num_batches: Batches in all.
    """

    whole: Array
    without: Array
    weighted: Array
    num_parts: NDArray[np.int64]
    num_examples: NDArray[np.int64]
    num_batches: int


class BlockSums:
    """Running sums over blocks of consecutive batches; the number of batches need not be known.

    Args:
        parameters: Parameters whose gradients are added up.
        copies: Tensors of the size of the gradient held for each block.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], copies: int = 1) -> None:
        num_bytes = copies * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        # Twice as many blocks as wanted are filled before neighbours are joined.
        self._max_blocks = 2 * max(MIN_BLOCKS, min(NUM_BLOCKS, MAX_BLOCK_BYTES // (2 * num_bytes)))
        self._batches_a_block = 1
        self._open = 0
        self.totals: list[list[Tensor]] = []
        self.weighted: list[Tensor] = []
        self.num_parts: list[int] = []
        self.num_examples: list[int] = []
        self.num_batches = 0

    def add(self, batch: BatchSums) -> None:
        """Take in one batch."""
        self.num_batches += 1
        if self._open == 0:
            if len(self.totals) == self._max_blocks:
                self._join_neighbours()
            self.totals.append([tensor.clone() for tensor in batch.total])
            self.weighted.append(batch.weighted)
            self.num_parts.append(batch.num_parts)
            self.num_examples.append(batch.num_examples)
        else:
            torch._foreach_add_(self.totals[-1], batch.total)
            self.weighted[-1] = self.weighted[-1] + batch.weighted
            self.num_parts[-1] += batch.num_parts
            self.num_examples[-1] += batch.num_examples
        self._open = (self._open + 1) % self._batches_a_block

    def _join_neighbours(self) -> None:
        for left, right in zip(self.totals[::2], self.totals[1::2], strict=True):
            torch._foreach_add_(left, right)
        self.totals = self.totals[::2]
        self.weighted = [a + b for a, b in zip(self.weighted[::2], self.weighted[1::2], strict=True)]
        self.num_parts = [a + b for a, b in zip(self.num_parts[::2], self.num_parts[1::2], strict=True)]
        self.num_examples = [a + b for a, b in zip(self.num_examples[::2], self.num_examples[1::2], strict=True)]
        self._batches_a_block *= 2

    def check_enough(self) -> None:
        """Check that an estimate is left when any one block is left out.

        Raises:
            InputError: Otherwise.
        """
        if len(self.totals) < 2 or sum(self.num_parts) - max(self.num_parts) < 2:
            raise InputError(
                f"batches must hold at least 2 batches of 2 micro-batches or 3 of one, got {self.num_batches} batches in "
                f"{sum(self.num_parts)} micro-batches; the interval leaves each batch out once and needs two parts in the rest"
            )

    def whole(self) -> list[Tensor]:
        """Sum of the gradients of all examples."""
        return [torch.stack(parts).sum(dim=0) for parts in zip(*self.totals, strict=True)]

    def pooled(self) -> PooledSums:
        """The sums as arrays.

        Raises:
            InputError: If there are too few batches for an interval.
        """
        self.check_enough()
        total = self.whole()
        whole = sq_norms(total)
        cross = torch.stack([dots(total, block) for block in self.totals], dim=1)
        own = torch.stack([sq_norms(block) for block in self.totals], dim=1)
        return PooledSums(
            whole=_array(whole),
            without=_array(whole[:, None] - 2 * cross + own),
            weighted=_array(torch.stack(self.weighted, dim=1)),
            num_parts=np.array(self.num_parts),
            num_examples=np.array(self.num_examples),
            num_batches=self.num_batches,
        )


def sq_norms(tensors: Sequence[Tensor]) -> Float[Tensor, " P"]:
    """Squared norm of each tensor, in float64."""
    small = [tensor for tensor in tensors if tensor.numel() < LARGE]
    found = iter(torch._foreach_norm(small, 2, dtype=torch.float64) if small else ())
    return torch.stack([next(found).square() if each.numel() < LARGE else sq_norm([each]) for each in tensors])


def dots(left: Sequence[Tensor], right: Sequence[Tensor]) -> Float[Tensor, " P"]:
    """Inner product of each pair of tensors, in float64."""
    return torch.stack([dot([a], [b]) for a, b in zip(left, right, strict=True)])


def _array(values: Tensor) -> Array:
    return np.asarray(values.cpu().numpy(), dtype=np.float64)
