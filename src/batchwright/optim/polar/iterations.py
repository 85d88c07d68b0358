"""Odd quintic steps on a matrix, or on its Gram matrix where that is much the smaller; batches of matrices in one call.

Source: Jordan et al. (2024) for the iteration. That all steps may be done on the short side follows from ``X <- P(X X^T) X``: the
polynomials of one symmetric matrix commute, so the product of them all is built there and meets ``X`` once.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.optim.polar.quintic import Quintic

# On the short side a step costs four products of m x m, on the matrix two of m x m x n and one of m x m x m.
GRAM_RATIO = 1.5


def iterate(wide: Float[Tensor, "*batch m n"], quintics: Sequence[Quintic]) -> Float[Tensor, "*batch m n"]:
    """All steps on the matrix, divided by its Frobenius norm first; in the precision of ``wide``."""
    factor = unit(wide)
    for a, b, c in quintics:
        gram = factor @ factor.mT
        polynomial = _add_product(gram, gram, gram, beta=b, alpha=c)
        factor = _add_product(factor, polynomial, factor, beta=a, alpha=1.0)
    return factor


def iterate_on_gram(wide: Float[Tensor, "*batch m n"], quintics: Sequence[Quintic]) -> Float[Tensor, "*batch m n"]:
    """All steps on the Gram matrix of the short side, and one product with the matrix at the end.

    Squared singular values below the epsilon of the type are lost, 3e-4 of the largest in float32: use no shorter type.
    """
    factor = unit(wide)
    gram = factor @ factor.mT
    product: Tensor | None = None
    for number, (a, b, c) in enumerate(quintics):
        polynomial = b * gram
        polynomial = _add_product(polynomial, gram, gram, beta=1.0, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        if number < len(quintics) - 1:
            gram = polynomial @ (polynomial @ gram)
            gram = (gram + gram.mT) / 2  # else rounding makes it less symmetric with each step, and it diverges
    assert product is not None
    return product @ factor


def unit(matrix: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
    """Each matrix over its Frobenius norm; zeros stay zeros, at any size of the entries."""
    tiny = torch.finfo(torch.float32).tiny
    largest = matrix.abs().amax(dim=(-2, -1), keepdim=True)
    scaled = matrix / largest.clamp(min=tiny)
    wide = torch.promote_types(scaled.dtype, torch.float32)
    norm = torch.linalg.vector_norm(scaled, dim=(-2, -1), keepdim=True, dtype=wide)
    found: Tensor = scaled / norm.clamp(min=tiny).to(scaled.dtype)
    return found


def _add_product(base: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float) -> Tensor:
    if base.ndim == 2:
        return torch.addmm(base, left, right, beta=beta, alpha=alpha)
    if base.ndim == 3:
        return torch.baddbmm(base, left, right, beta=beta, alpha=alpha)
    return beta * base + alpha * (left @ right)
