"""The exact polar factor, the smoothed one, and that of a product of two thin factors.

Source: papers-2026, 2.1, for the smoothed map ``G (G^T G + lambda^2 I)^(-1/2)`` of Kim et al. (2026), arXiv:2603.26554.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.optim.polar.gram import full_gram, in_safe_range

# Singular values of fewer epsilons of the largest than this are what rounding has put there.
NOISE = 8


def exact_polar(matrix: Float[Tensor, "m n"], *, smoothing: float = 0.0) -> Float[Tensor, "m n"]:
    """``U V^T`` of the singular value decomposition ``U S V^T``, or ``U S (S^2 + smoothing^2)^(-1/2) V^T``.

    By the eigenvalues of the Gram matrix of the short side, formed in float64: in float32 the squares lose what is below 3e-4 of
    the largest singular value. A float64 matrix has no wider type to square in and goes to `svd_polar`. Singular values of less
    than eight epsilons of the largest are rounding and become 0, so the factor of a matrix of lower rank is the partial isometry.

    Args:
        matrix: float32 or float64; NaN or an infinity gives NaN throughout.
        smoothing: ``lambda``, in the units of the matrix.
    """
    check_number("smoothing", smoothing, at_least=0.0)
    scaled, largest = in_safe_range(matrix)
    if largest == 0:
        return torch.zeros_like(matrix)
    if not math.isfinite(largest):
        return torch.full_like(matrix, math.nan)
    if scaled is not matrix:
        smoothing *= float(scaled.abs().max()) / largest
    if matrix.dtype == torch.float64:
        return svd_polar(scaled, smoothing=smoothing)
    wide = scaled if matrix.shape[0] <= matrix.shape[1] else scaled.mT
    values, vectors = torch.linalg.eigh(full_gram(wide.double()))
    top = float(values[-1])
    if not math.isfinite(top) or top <= 0:  # the guard: a driver that has not converged
        return svd_polar(scaled, smoothing=smoothing)
    kept = values > (NOISE * torch.finfo(matrix.dtype).eps) ** 2 * top
    roots = torch.where(kept, (values.clamp(min=torch.finfo(values.dtype).tiny) + smoothing**2).rsqrt(), 0.0)
    inverse_root = ((vectors * roots) @ vectors.mT).to(matrix.dtype)
    found: Tensor = inverse_root @ wide
    return found if matrix.shape[0] <= matrix.shape[1] else found.mT


def svd_polar(matrix: Float[Tensor, "m n"], *, smoothing: float = 0.0) -> Float[Tensor, "m n"]:
    """As `exact_polar`, by the singular value decomposition in the precision of the matrix."""
    if not bool(torch.isfinite(matrix).all()):
        return torch.full_like(matrix, math.nan)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = values > NOISE * torch.finfo(matrix.dtype).eps * values[0]
    size = (values.square() + smoothing**2).sqrt().clamp(min=torch.finfo(values.dtype).tiny)
    found: Tensor = (left * torch.where(kept, values / size, 0.0)) @ right
    return found


def smoothing_for(batch_size: int | None, *, num_rows: int, alpha: float = 1.5) -> float:
    """The smoothing of the analysis without its powers of logarithms: ``max(d^-alpha, 1/B)``.

    It is meant for a gradient of the associative memory, whose items have norm 1: singular values below it are the noise of the items
    that share a direction, or of single draws.

    Args:
        batch_size: ``B``, in examples; None for the whole population.
        num_rows: ``d``.
        alpha: Exponent of the power law.

    Example:
        >>> smoothing_for(4096, num_rows=256, alpha=2.0), smoothing_for(None, num_rows=256, alpha=2.0)
        (0.000244140625, 1.52587890625e-05)
    """
    check_number("alpha", alpha, above=0.0)
    check_number("num_rows", num_rows, at_least=1)
    bulk: float = float(num_rows) ** -alpha
    return bulk if batch_size is None else max(bulk, 1 / batch_size)


def polar_of_factors(left: Float[Tensor, "m r"], right: Float[Tensor, "n r"]) -> Float[Tensor, "m n"]:
    """``polar(left right^T)`` from the two thin factors, without forming the product first.

    A gradient of ``B`` examples of a linear layer is such a product of rank at most ``B``: output gradients by inputs. It costs
    two QR decompositions and a singular value decomposition of ``r x r``. A momentum buffer is of higher rank, so it is no use there.

    Raises:
        InputError: If ``r`` is larger than either side; the product is no thinner then: call `polar` on it.
    """
    rank = left.shape[1]
    if rank > min(left.shape[0], right.shape[0]):
        raise InputError(
            f"left and right must have at most {min(left.shape[0], right.shape[0])} columns, the shorter side of the product, "
            f"got {rank}; call polar on the product"
        )
    left_basis, left_triangle = torch.linalg.qr(left)
    right_basis, right_triangle = torch.linalg.qr(right)
    inner = svd_polar(left_triangle @ right_triangle.mT)
    found: Tensor = left_basis @ inner @ right_basis.mT
    return found
