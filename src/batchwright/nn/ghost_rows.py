"""Ghost batch norm of a contiguous image batch on a CPU, read as one row of pixels for each example and channel.

Torch's batch norm kernels take the rows for channels: their weight and bias gradients are the sums of a row, their evaluation is
one pass of scale and shift. What belongs to ghosts is worked out on ``(B, C)`` numbers. The batch is read twice and written once in
the forward pass, as in torch's batch norm or less.
"""

import math

import torch
from torch import Tensor

from batchwright.nn.ghost_algebra import input_gradient, scale_and_shift
from batchwright.nn.ghost_statistics import Ghosts, ghost_sums, per_example

# Above this ratio of mean square to variance the difference of two sums has lost too many digits in float32, and torch's own
# statistics, summed in float64, take its place.
MAX_OFFSET = 32.0
# Rows shorter than this are scaled and shifted in two passes, which cost less a row.
SHORT_ROW = 256


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, ghosts: Ghosts, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, means and biased variances."""
    means, variances = statistics(x, ghosts)
    return scaled(x, *scale_and_shift(means, variances, weight, bias, eps), ghosts), means, variances


def statistics(x: Tensor, ghosts: Ghosts) -> tuple[Tensor, Tensor]:
    """Means and biased variances."""
    rows = _rows(x)
    squares, sums = _products(rows, rows)
    inverse_counts = ghosts.inverse_counts(math.prod(x.shape[2:]), x.dtype)
    means = ghost_sums(sums.view(x.shape[:2]), ghosts).mul_(inverse_counts)
    mean_squares = ghost_sums(squares.view(x.shape[:2]), ghosts).mul_(inverse_counts)
    variances = torch.addcmul(mean_squares, means, means, value=-1)
    if torch.sub(mean_squares, variances, alpha=MAX_OFFSET).max().item() > 0:
        means, variances = _exact(rows, x, ghosts)
    return means, variances


def scaled(x: Tensor, scale: Tensor, shift: Tensor, ghosts: Ghosts) -> Tensor:
    """``scale * x + shift`` with numbers of the ghosts."""
    out = _affine(_rows(x), *_row_values((scale, shift), ghosts))
    # Not a view of the result, which autograd would not let an in-place ReLU change.
    return torch.ops.aten._unsafe_view(out, x.shape)  # type: ignore[no-any-return]


def gradient_means(x: Tensor, grad: Tensor, ghosts: Ghosts) -> tuple[Tensor, Tensor]:
    """Means over the ghosts of ``grad`` and of ``grad * x``."""
    products, sums = _products(_rows(x), _rows(grad))
    inverse_counts = ghosts.inverse_counts(math.prod(x.shape[2:]), x.dtype)
    first, second = (ghost_sums(each.view(x.shape[:2]), ghosts) for each in (sums, products))
    return first.mul_(inverse_counts), second.mul_(inverse_counts)


def combined(grad: Tensor, x: Tensor, scale: Tensor, slope: Tensor, shift: Tensor, ghosts: Ghosts) -> Tensor:
    """``scale * grad + slope * x + shift`` with numbers of the ghosts."""
    scale, slope, shift = _row_values((scale, slope, shift), ghosts)
    return _affine(_rows(grad), scale, shift).addcmul_(_rows(x), slope[None, :, None]).view(x.shape)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    means: Tensor,
    variances: Tensor,
    ghosts: Ghosts,
    eps: float,
    wants_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for the input (empty where not wanted), the scale and the shift."""
    rows, grads = _rows(x), _rows(grad)
    products, sums = _products(rows, grads)
    ghost_products = ghost_sums(products.view(x.shape[:2]), ghosts)
    ghost_grads = ghost_sums(sums.view(x.shape[:2]), ghosts)
    inverse_counts = ghosts.inverse_counts(math.prod(x.shape[2:]), x.dtype)
    *factors, normalised = input_gradient(ghost_grads, ghost_products, means, variances, weight, eps, inverse_counts)
    grad_weight, grad_bias = normalised.sum(dim=0), ghost_grads.sum(dim=0)
    if not wants_input:
        return x.new_empty(0), grad_weight, grad_bias
    scale, slope, shift = _row_values(tuple(factors), ghosts)
    grad_x = _affine(grads, scale, shift).addcmul_(rows, slope[None, :, None])
    return grad_x.view(x.shape), grad_weight, grad_bias


def _rows(x: Tensor) -> Tensor:
    return x.view(1, x.shape[0] * x.shape[1], -1)


def _products(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over each row of ``rows * others`` and of ``others``: gradients for weight and bias of a batch norm with mean 0."""
    ones, zeros = rows.new_ones(rows.shape[1]), rows.new_zeros(rows.shape[1])
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        others, rows, None, None, None, zeros, ones, True, 0.0, (False, True, True)
    )
    return products, sums


def _affine(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * rows + shift``."""
    if rows.shape[2] < SHORT_ROW:
        return (rows * scale[None, :, None]).add_(shift[None, :, None])
    # Batch norm in evaluation, with mean 0 and variance 1: one pass, at some cost a row.
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    return torch.native_batch_norm(rows, scale, shift, zeros, ones, False, 0.0, 0.0)[0]


def _exact(rows: Tensor, x: Tensor, ghosts: Ghosts) -> tuple[Tensor, Tensor]:
    """Means and variances from those of the rows: the law of total variance."""
    row_means, row_variances = (
        value.view(x.shape[:2]) for value in torch.batch_norm_update_stats(rows, None, None, 0.0)
    )
    inverse_sizes = ghosts.inverse_counts(1, x.dtype)
    means = ghost_sums(row_means, ghosts) * inverse_sizes
    deviations = row_means - per_example(means, ghosts)
    return means, ghost_sums(torch.addcmul(row_variances, deviations, deviations), ghosts) * inverse_sizes


def _row_values(values: tuple[Tensor, ...], ghosts: Ghosts) -> tuple[Tensor, ...]:
    """The values of its ghost for each row."""
    stacked = torch.stack(values)
    head = stacked[:, : ghosts.num_equal] if ghosts.last else stacked
    expanded = head.unsqueeze(2).expand(-1, -1, ghosts.size, -1).reshape(len(values), -1)
    if ghosts.last:
        tail = stacked[:, ghosts.num_equal :].expand(-1, ghosts.last, -1).reshape(len(values), -1)
        expanded = torch.cat([expanded, tail], dim=1)
    return expanded.unbind()
