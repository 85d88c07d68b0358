"""Two samples on top of each other, cut into blocks of rows, with the weight of each pair of rows in the squared MMD.

With ``z`` the rows of ``x`` and then those of ``y``, the squared MMD is ``sum_ij C_ij k(z_i, z_j)``, and ``C`` is constant on the
four rectangles of its two samples (and zero on the diagonal where the estimate is unbiased).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

# Sides of a block of pairs: on a CPU a block and its copies stay in the cache of a core; a GPU wants much work a launch.
CPU_BLOCK, GPU_BLOCK = 256, 4096

Rows = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Weights of the pairs in the squared MMD of ``m`` and ``n`` points.

    Attributes:
        num_x: ``m``.
        num_y: ``n``.
        unbiased: Whether pairs of a row with itself are left out.
    """

    num_x: int
    num_y: int
    unbiased: bool

    def between(self, first_is_y: bool, second_is_y: bool) -> float:
        """Weight of a pair by the samples that its rows are from."""
        if first_is_y != second_is_y:
            return -1 / (self.num_x * self.num_y)
        num = self.num_y if first_is_y else self.num_x
        return 1 / (num * (num - 1)) if self.unbiased else 1 / num**2


@lru_cache(maxsize=16)
def of_block(weights: Weights, rows: Rows, columns: Rows, dtype: torch.dtype, device: torch.device) -> Tensor | float:
    """The weight of each pair of a block: a matrix, not to be written to, or one number where all are equal.

    Kept, because a training loop asks for the same small matrix in each step, and making it takes as long as using it.
    """
    num_rows, num_columns = rows[1] - rows[0], columns[1] - columns[0]
    below = min(max(weights.num_x - rows[0], 0), num_rows)
    left = min(max(weights.num_x - columns[0], 0), num_columns)
    diagonal = weights.unbiased and rows == columns
    if below in (0, num_rows) and left in (0, num_columns) and not diagonal:
        return weights.between(below == 0, left == 0)
    with torch.inference_mode(False):
        found = torch.full((num_rows, num_columns), weights.between(False, True), dtype=dtype, device=device)
        found[:below, :left] = weights.between(False, False)
        found[below:, left:] = weights.between(True, True)
        return found.fill_diagonal_(0) if diagonal else found


def cut(num_rows: int, block_size: int) -> list[Rows]:
    """Rows cut into blocks of at most ``block_size``, as equal as can be."""
    num_blocks = max(1, -(-num_rows // block_size))
    ends = [num_rows * number // num_blocks for number in range(num_blocks + 1)]
    return list(pairwise(ends))


def upper_triangle(blocks: list[Rows]) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of blocks on and above the diagonal: a Gram matrix is symmetric, so the others are their mirror images."""
    for number, rows in enumerate(blocks):
        for columns in blocks[number:]:
            yield rows, columns


def default_block(device: torch.device) -> int:
    """Side of a block on this kind of device."""
    return GPU_BLOCK if device.type == "cuda" else CPU_BLOCK
