"""Ghost batch norm of a contiguous image batch on a CPU, read as one row of pixels for each example and channel.

Torch's batch norm kernels take the rows for channels: their weight and bias gradients are the sums of a row, their evaluation is
one pass of scale and shift. What belongs to ghosts is worked out on ``(B, C)`` numbers. The batch is read twice and written once in
the forward pass, as in torch's batch norm or less.
"""

import math

import torch
from torch import Tensor

from batchwright.nn.ghost_algebra import input_gradient, scale_and_shift
from batchwright.nn.ghost_statistics import Ghosts, ghost_means, per_example

# Above this ratio of mean square to variance the difference of two sums has lost too many digits in float32, and torch's own
# statistics, summed in float64, take its place.
MAX_OFFSET = 32.0


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
    means = _means(sums, x, ghosts)
    mean_squares = _means(squares, x, ghosts)
    variances = torch.addcmul(mean_squares, means, means, value=-1)
    if float(torch.sub(mean_squares, variances, alpha=MAX_OFFSET).max()) > 0:
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
    return _means(sums, x, ghosts), _means(products, x, ghosts)


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
    mean_grad, mean_product = _means(sums, x, ghosts), _means(products, x, ghosts)
    *factors, normalised = input_gradient(mean_grad, mean_product, means, variances, weight, eps)
    counts = ghosts.counts_like(means, math.prod(x.shape[2:]))
    grad_weight, grad_bias = (normalised * counts).sum(dim=0), sums.view(x.shape[:2]).sum(dim=0)
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
    """``scale * rows + shift``: batch norm in evaluation, with mean 0 and variance 1."""
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    return torch.native_batch_norm(rows, scale, shift, zeros, ones, False, 0.0, 0.0)[0]


def _means(sums: Tensor, x: Tensor, ghosts: Ghosts) -> Tensor:
    """Means over ghosts from sums over rows."""
    return ghost_means(sums.view(x.shape[:2]), ghosts).mul_(1.0 / math.prod(x.shape[2:]))


def _exact(rows: Tensor, x: Tensor, ghosts: Ghosts) -> tuple[Tensor, Tensor]:
    """Means and variances from those of the rows: the law of total variance."""
    row_means, row_variances = (
        value.view(x.shape[:2]) for value in torch.batch_norm_update_stats(rows, None, None, 0.0)
    )
    means = ghost_means(row_means, ghosts)
    return means, ghost_means(row_variances + (row_means - per_example(means, ghosts)).square(), ghosts)


def _row_values(values: tuple[Tensor, ...], ghosts: Ghosts) -> tuple[Tensor, ...]:
    """The values of its ghost for each row."""
    stacked = torch.stack(values)
    head = stacked[:, : ghosts.num_equal, None].expand(-1, -1, ghosts.size, -1).reshape(len(values), -1)
    if ghosts.last:
        tail = stacked[:, ghosts.num_equal :].expand(-1, ghosts.last, -1).reshape(len(values), -1)
        head = torch.cat([head, tail], dim=1)
    return head.unbind()
