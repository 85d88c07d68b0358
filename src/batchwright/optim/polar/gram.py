"""The Gram matrix of a wide matrix, with half the multiplications, and bounds for its singular values that cost nothing more."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 128
# Outside this range of entries the squares of float32 would lose digits or overflow.
SAFE = (2.0**-40, 2.0**40)


def lower_gram(wide: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m m"]:
    """The lower triangle of ``X X^T``, zeros above it.

    Torch has no symmetric product on a CPU; in blocks of rows most of the half above the diagonal is left out.
    """
    num_rows = wide.shape[-2]
    if num_rows <= BLOCK or wide.device.type != "cpu" or wide.ndim > 2:
        return (wide @ wide.mT).tril_()
    gram = wide.new_zeros(num_rows, num_rows)
    for start in range(0, num_rows, BLOCK):
        stop = min(start + BLOCK, num_rows)
        torch.mm(wide[start:stop], wide[:stop].T, out=gram[start:stop, :stop])
    return gram.tril_()


def full_gram(wide: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m m"]:
    """``X X^T``."""
    gram = lower_gram(wide)
    return gram + gram.tril(-1).mT


def in_safe_range(matrix: Float[Tensor, "m n"]) -> tuple[Float[Tensor, "m n"], float]:
    """The matrix, by a power of two brought to where squares are safe, and its largest entry before that."""
    straight = matrix if matrix.is_contiguous() else matrix.mT
    least, most = (float(value) for value in torch.aminmax(straight))  # the infinity norm takes 25 times as long
    largest = max(-least, most)
    if largest == 0 or not math.isfinite(largest) or SAFE[0] <= largest <= SAFE[1]:
        return matrix, largest
    exponent = -math.frexp(largest)[1]
    # In two factors: one alone would not be a number of float32 for the smallest matrices.
    return matrix * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2), largest


def eigenvalue_bounds(lower: Float[Tensor, "m m"]) -> tuple[float, float]:
    """Bounds ``(low, high)`` for the eigenvalues of a Gram matrix, from the trace and the norm of its lower triangle; ``low`` is
    often 0.

    Wolkowicz & Styan (1980): mean plus and minus ``sqrt(m - 1)`` deviations. ``high`` is at most the Frobenius norm of the
    Gram matrix, which itself is at most the squared Frobenius norm that Newton-Schulz divides by; for an orthogonal matrix both
    bounds are exact.
    """
    size = len(lower)
    diagonal = lower.diagonal().double()
    trace = float(diagonal.sum())
    square = 2 * float(torch.linalg.vector_norm(lower, dtype=torch.float64)) ** 2 - float(diagonal.square().sum())
    mean = trace / size
    # What rounding has put into the entries can hide so much of the variance.
    rounding = 8 * torch.finfo(lower.dtype).eps * mean * mean
    reach = math.sqrt(max(square / size - mean * mean, 0.0) + rounding) * math.sqrt(size - 1)
    return max(mean - reach, 0.0), mean + reach
