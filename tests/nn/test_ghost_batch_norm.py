"""Ghost batch norm against the slow form: a BatchNorm step on one chunk after another."""

import copy

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.nn import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from batchwright.nn.ghost_statistics import Ghosts, sequential_weights

LAYERS = {
    "1d": (GhostBatchNorm1d, nn.BatchNorm1d, ()),
    "1d with length": (GhostBatchNorm1d, nn.BatchNorm1d, (5,)),
    "2d": (GhostBatchNorm2d, nn.BatchNorm2d, (4, 3)),
    "3d": (GhostBatchNorm3d, nn.BatchNorm3d, (2, 3, 2)),
}
CHANNELS = 3


def chunks(x, ghost_size):
    """Rows in order, ``ghost_size`` at a time; a lone value a channel joins the chunk before it."""
    parts = list(x.split(ghost_size))
    if len(parts) > 1 and parts[-1][:, 0].numel() == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def pair(kind, ghost_size, **options):
    """A ghost layer and a BatchNorm with the same random scale and shift."""
    ghost_class, batch_class, shape = LAYERS[kind]
    batch = batch_class(CHANNELS, dtype=torch.float64, **options)
    if batch.affine:
        nn.init.normal_(batch.weight)
        nn.init.normal_(batch.bias)
    ghost = ghost_class(CHANNELS, ghost_size, dtype=torch.float64, **options)
    ghost.load_state_dict(batch.state_dict())
    return ghost, batch, shape


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("batch_size", "ghost_size"), [(12, 4), (12, 12), (5, 8), (13, 4), (9, 2), (14, 4), (7, 3), (3, 2)]
)
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_a_step_is_one_batch_norm_step_on_each_chunk(kind, batch_size, ghost_size, options):
    torch.manual_seed(0)
    ghost, batch, shape = pair(kind, ghost_size, **options)
    for _ in range(2):
        x = torch.randn(batch_size, CHANNELS, *shape, dtype=torch.float64, requires_grad=True)
        z = x.detach().clone().requires_grad_()
        out, expected = ghost(x), torch.cat([batch(part) for part in chunks(z, ghost_size)])
        weight = torch.randn_like(out)
        (out * weight).sum().backward()
        (expected * weight).sum().backward()
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(x.grad, z.grad, rtol=0, atol=1e-11)
    for (name, mine), (_, theirs) in zip(ghost.named_parameters(), batch.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-11, msg=name)
    torch.testing.assert_close(ghost.state_dict(), batch.state_dict(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_evaluation_is_batch_norms(kind, options):
    torch.manual_seed(0)
    ghost, _, shape = pair(kind, 4, **options)
    ghost(torch.randn(12, CHANNELS, *shape, dtype=torch.float64))
    _, batch, _ = pair(kind, 4, **options)
    batch.load_state_dict(ghost.state_dict())
    x = torch.randn(7, CHANNELS, *shape, dtype=torch.float64)
    assert torch.equal(ghost.eval()(x), batch.eval()(x))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("batch_size", [12, 13, 14])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_update_a_batch_with_the_variance_between_ghosts_is_batch_norms(kind, batch_size, momentum):
    torch.manual_seed(0)
    ghost, batch, shape = pair(kind, 4, momentum=momentum)
    ghost.running, ghost.between_ghosts = "batch", True
    for _ in range(3):
        x = torch.randn(batch_size, CHANNELS, *shape, dtype=torch.float64)
        ghost(x)
        batch(x)
    torch.testing.assert_close(ghost.state_dict(), batch.state_dict(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("num", "momentum"), [(8, 0.1), (32, 0.1), (1, 0.1), (5, 1.0)])
def test_old_and_new_weights_sum_to_one(num, momentum):
    assert abs((1 - momentum) ** num + sum(sequential_weights(num, momentum)) - 1) < 1e-12


@pytest.mark.parametrize(
    ("batch_size", "ghost_size", "values", "sizes"),
    [
        (64, 16, 1, [16] * 4),
        (10, 16, 1, [10]),
        (35, 16, 1, [16, 16, 3]),
        (33, 16, 1, [16, 17]),
        (33, 16, 4, [16, 16, 1]),
        (17, 16, 1, [17]),
    ],
)
def test_ghosts_are_cut_in_order(batch_size, ghost_size, values, sizes):
    assert Ghosts.of_batch(batch_size, ghost_size, values).counts(1) == sizes


def test_a_ghost_with_one_value_a_channel_is_refused():
    with pytest.raises(InputError, match=r"at least 2 values a channel.*ghost_size=1; take larger ghosts"):
        GhostBatchNorm1d(2, ghost_size=1)(torch.randn(8, 2))
    with pytest.raises(InputError, match="got batch size 1"):
        GhostBatchNorm1d(2)(torch.randn(1, 2))


def test_options_are_checked():
    with pytest.raises(InputError, match="ghost_size must be an integer of at least 1, got 0"):
        GhostBatchNorm2d(2, ghost_size=0)
    with pytest.raises(InputError, match="running must be one of batch, ghosts, got 'all'"):
        GhostBatchNorm2d(2, running="all")


def test_the_number_of_axes_is_torchs():
    with pytest.raises(ValueError, match="expected 4D input"):
        GhostBatchNorm2d(2)(torch.randn(4, 2))


@pytest.mark.parametrize("sizes", [(6, 2), (7, 3)])
def test_gradients_by_gradcheck(sizes):
    torch.manual_seed(0)
    layer = GhostBatchNorm2d(2, ghost_size=sizes[1], dtype=torch.float64)
    x = torch.randn(sizes[0], 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return torch.func.functional_call(copy.deepcopy(layer), {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, weight, bias))
    assert torch.autograd.gradgradcheck(call, (x, weight, bias))
