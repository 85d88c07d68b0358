"""Squared distances and inner products of all pairs by one matrix product each, safe in float32."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Two numbers of each pair of points, in tensors of one shape, and the dimension of the points.

    Attributes:
        sq_distance: ``||a - b||^2``, never negative; empty where a kernel does not ask for it.
        product: ``<a, b>``; empty where a kernel does not ask for it.
        dim: Number of coordinates.
    """

    sq_distance: Tensor
    product: Tensor
    dim: int


def pairs_of(x: Tensor, y: Tensor | None, *, distance: bool, product: bool) -> Pairs:
    """Squared distances, or inner products, or both, of all pairs of rows, twice differentiable; ``y`` is ``x`` where left out.

    ``||a||^2 + ||b||^2 - 2 <a, b>`` loses the digits of a small distance between points far from the origin, so the points are
    centred first; what rounding leaves below zero is set to zero, and the distance of a row to itself is zero. The derivatives are
    those of the exact distance, so that a rounded pair pulls no less than its neighbours.
    """
    other = x if y is None else y
    empty = x.new_empty(0)
    sq_distance = _sq_distances(x, other, same=y is None) if distance else empty
    return Pairs(sq_distance=sq_distance, product=x @ other.T if product else empty, dim=x.shape[1])


def _sq_distances(x: Tensor, y: Tensor, *, same: bool) -> Tensor:
    centre = _centre(x, y)
    x, y = x - centre, y - centre
    raw = torch.addmm(x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1), x, y.T, alpha=-2)
    fixed = raw.detach().clamp(min=0)
    if same:
        fixed.fill_diagonal_(0)
    return raw + (fixed - raw.detach())


def _centre(x: Tensor, y: Tensor) -> Tensor:
    """A point between the two samples, outside of autograd: distances do not depend on it."""
    return 0.5 * (x.detach().mean(dim=0) + y.detach().mean(dim=0))
