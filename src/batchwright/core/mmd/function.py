"""The squared MMD of two samples with analytic gradients, block by block, so that no matrix of all pairs is ever held.

The forward pass finds the gradient along with the value: for the sum ``sum_ij C_ij k(z_i, z_j)`` it is
``4 sum_j C_ij k_d (z_i - z_j) + 2 sum_j C_ij k_p z_j``, two matrix products a block. What is kept for the backward pass is
of the size of the points. Each block above the diagonal serves its mirror image too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from batchwright.core.kernels.kernel import Kernel, Slopes, uses
from batchwright.core.kernels.pairs import Pairs, pairs_of
from batchwright.core.mmd.blocks import Weights, cut, of_block, upper_triangle


class SquaredMmd(Function):
    """``sum_ij C_ij k(z_i, z_j)``; differentiable as often as the kernel's values are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, kernel: Kernel, weights: Weights, block_size: int) -> Tensor:
        """The value; the gradients too where one is asked for."""
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        value, grad = value_and_grad(x, y, kernel, weights, block_size, with_grad=wanted)
        ctx.kernel, ctx.weights, ctx.block_size = kernel, weights, block_size
        if grad is not None:
            ctx.save_for_backward(x, y, grad)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """The saved gradients times ``upstream``; anew and differentiable where a graph is asked for."""
        x, y, grad = ctx.saved_tensors
        if torch.is_grad_enabled():
            grad = SquaredMmdGradient.apply(x, y, grad, ctx.kernel, ctx.weights, ctx.block_size)
        by_x, by_y = ctx.needs_input_grad[:2]
        if by_x and by_y:
            scaled = upstream * grad
            return scaled[: len(x)], scaled[len(x) :], None, None, None
        return (
            upstream * grad[: len(x)] if by_x else None,
            upstream * grad[len(x) :] if by_y else None,
            None,
            None,
            None,
        )


class SquaredMmdGradient(Function):
    """The gradient as a function of the points, known already, whose own derivative autograd finds block by block."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, grad: Tensor, kernel: Kernel, weights: Weights, block_size: int
    ) -> Tensor:
        """The gradient that the first pass found."""
        ctx.save_for_backward(x, y)
        ctx.kernel, ctx.weights, ctx.block_size = kernel, weights, block_size
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        """The derivative of ``<along, gradient>`` by the points, which is the Hessian times ``along``."""
        x, y = ctx.saved_tensors
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            z = torch.cat([x, y])
            if not create_graph:
                z, along = z.detach(), along.detach()
            found = _hessian_product(z, along, ctx.kernel, ctx.weights, ctx.block_size, create_graph)
        return found[: len(x)], found[len(x) :], None, None, None, None


def value_and_grad(
    x: Tensor, y: Tensor, kernel: Kernel, weights: Weights, block_size: int, *, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The value and, where asked for, its gradient by the rows of ``x`` and then those of ``y``; outside of autograd."""
    if len(x) + len(y) <= block_size:
        return _of_one_block(x, y, kernel, weights, with_grad=with_grad)
    of_distance, of_product = uses(kernel)
    raw = torch.cat([x, y])
    # Distances do not depend on the origin, and seen from a point among the others they lose the fewest digits.
    z = raw - raw[0] if of_distance else raw
    empty = sq_norms = z.new_empty(0)
    if of_distance:
        sq_norms = z.square().sum(dim=1)
    total: Tensor | None = None
    grad = torch.zeros_like(z) if with_grad else None
    for rows, columns in upper_triangle(cut(len(z), block_size)):
        here, there, mirror = slice(*rows), slice(*columns), rows != columns
        sq_distance = product = empty
        if of_distance:
            sq_distance = torch.addmm(sq_norms[there], z[here], z[there].T, alpha=-2)
            sq_distance.add_(sq_norms[here, None]).clamp_(min=0)
            if not mirror:
                sq_distance.fill_diagonal_(0)
        if of_product:
            product = raw[here] @ raw[there].T
        pairs = Pairs(sq_distance=sq_distance, product=product, dim=z.shape[1])
        found = kernel.slopes(pairs) if with_grad else Slopes(kernel.values(pairs))
        by_pair = of_block(weights, rows, columns, z.dtype, z.device)
        part = _total(found.values, by_pair)
        total = part.double() if total is None else total.add_(part, alpha=2 if mirror else 1)
        if grad is not None and found.by_distance is not None:
            slope = found.by_distance.mul_(by_pair)
            if mirror:
                grad[here].addcmul_(slope.sum(dim=1)[:, None], z[here], value=4)
                grad[there].addcmul_(slope.sum(dim=0)[:, None], z[there], value=4)
                grad[there].addmm_(slope.T, z[here], alpha=-4)
            else:  # sum_j s_ij (z_i - z_j) as one product: the sum of a row goes where the row meets itself
                slope.diagonal().sub_(slope.sum(dim=1))
            grad[here].addmm_(slope, z[there], alpha=-4)
        if grad is not None and found.by_product is not None:
            slope = found.by_product.mul_(by_pair)
            grad[here].addmm_(slope, raw[there], alpha=2)
            if mirror:
                grad[there].addmm_(slope.T, raw[here], alpha=2)
    assert total is not None  # there is a row, so there is a block
    return total.to(z.dtype), grad


def _of_one_block(
    x: Tensor, y: Tensor, kernel: Kernel, weights: Weights, *, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The same where all pairs fit one block: fewer calls and new tensors, which take half of the time of a small batch."""
    of_distance, of_product = uses(kernel)
    raw = torch.cat([x, y])
    sq_distance = product = raw.new_empty(0)
    z = raw
    if of_distance:
        z = raw - x[0] if of_product else raw.sub_(x[0])
        sq_distance = z @ z.T
        sq_norms = sq_distance.diagonal().clone()
        # On the diagonal (a - 2 a) + a is zero without rounding.
        sq_distance.mul_(-2).add_(sq_norms).add_(sq_norms[:, None]).clamp_(min=0)
    if of_product:
        product = raw @ raw.T
    pairs = Pairs(sq_distance=sq_distance, product=product, dim=raw.shape[1])
    found = kernel.slopes(pairs) if with_grad else Slopes(kernel.values(pairs))
    rows = (0, len(raw))
    by_pair = of_block(weights, rows, rows, raw.dtype, raw.device)
    if not with_grad:
        return _total(found.values, by_pair), None
    value = found.values.mul_(by_pair).sum()
    grad: Tensor | None = None
    if found.by_distance is not None:
        slope = found.by_distance.mul_(by_pair)
        slope.diagonal().sub_(slope.sum(dim=1))
        grad = (slope @ z).mul_(-4)
    if found.by_product is not None:
        part = (found.by_product.mul_(by_pair) @ raw).mul_(2)
        grad = part if grad is None else grad.add_(part)
    return value, torch.zeros_like(raw) if grad is None else grad


def _total(values: Tensor, weights: Tensor | float) -> Tensor:
    return (values * weights).sum() if isinstance(weights, Tensor) else values.sum() * weights


def _hessian_product(
    z: Tensor, along: Tensor, kernel: Kernel, weights: Weights, block_size: int, create_graph: bool
) -> Tensor:
    """Hessian of the value times ``along``; one block at a time where no graph is asked for."""
    of_distance, of_product = uses(kernel)
    found = torch.zeros_like(z)
    blocks = [(0, len(z))] if create_graph else cut(len(z), block_size)
    for rows, columns in upper_triangle(blocks):
        here, there = slice(*rows), slice(*columns)
        mirror = rows != columns
        first = z[here] if create_graph else z[here].requires_grad_()
        second = (z[there] if create_graph else z[there].requires_grad_()) if mirror else first
        leaves = [first, second] if mirror else [first]
        pairs = pairs_of(first, second if mirror else None, distance=of_distance, product=of_product)
        value = (kernel.values(pairs) * of_block(weights, rows, columns, z.dtype, z.device)).sum()
        if mirror:
            value = 2 * value
        grads = torch.autograd.grad(value, leaves, create_graph=True)
        dot = (grads[0] * along[here]).sum()
        if mirror:
            dot = dot + (grads[1] * along[there]).sum()
        parts = torch.autograd.grad(dot, leaves, create_graph=create_graph, allow_unused=True)
        for place, part in zip((here, there), parts, strict=False):
            if part is not None:
                found = found + part if create_graph else _added(found, place, part)
    return found


def _added(total: Tensor, place: slice, part: Tensor) -> Tensor:
    total[place] += part
    return total
