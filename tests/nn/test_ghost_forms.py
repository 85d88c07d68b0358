"""The fast forms of ghost batch norm, each data type and layout, against the slow form; and what looks through a layer."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from batchwright.nn import GhostBatchNorm1d, GhostBatchNorm2d, ghost_blocks, ghost_function, ghost_rows, ghost_segments
from batchwright.nn.ghost_statistics import Ghosts, moments

SHAPES = {"rows": (13, 3, 4, 4), "long rows": (13, 3, 20, 20), "segments": (13, 5, 2, 3), "blocks": (18, 64, 12, 12)}


def batch(name, dtype=torch.float64, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(SHAPES[name], generator=generator, dtype=torch.float64) + offset).to(dtype)
    return x.to(memory_format=torch.channels_last) if name == "blocks" else x


FORMS = {"rows": ghost_rows, "long rows": ghost_rows, "segments": ghost_segments, "blocks": ghost_blocks}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("ghost_size", [4, 6])
@pytest.mark.parametrize("affine", [True, False])
def test_a_fast_form_is_the_plain_one(name, ghost_size, affine):
    torch.manual_seed(0)
    x = batch(name).requires_grad_()
    channels = x.shape[1]
    weight, bias = (
        torch.randn(channels, dtype=torch.float64, requires_grad=True) if affine else None for _ in range(2)
    )
    ghosts = Ghosts.of_batch(len(x), ghost_size, 16)
    grad = torch.randn_like(x)
    assert ghost_function._form(x, ghosts) is FORMS[name]
    expected = ghost_function._plain(x, *moments(x, ghosts), weight, bias, ghosts, 1e-5)
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
    expected_grads = torch.autograd.grad(expected, inputs, grad)
    out, means, variances = ghost_function.normalise(x, weight, bias, ghosts, 1e-5)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        (means, variances), tuple(value.detach() for value in moments(x, ghosts)), rtol=1e-12, atol=1e-13
    )
    assert out.stride() == x.stride()
    for mine, theirs in zip(torch.autograd.grad(out, inputs, grad), expected_grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 3.0, 1000.0])
def test_in_float32_it_is_as_near_the_truth_as_torchs_batch_norm_or_a_few_roundings_of_the_input(name, offset):
    x = batch(name, torch.float32, offset)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    results = {}
    for key, module, dtype in (
        ("exact", nn.BatchNorm2d, torch.float64),
        ("torch", nn.BatchNorm2d, torch.float32),
        ("ghost", None, torch.float32),
    ):
        inputs = x.to(dtype).requires_grad_()
        if module is None:
            out = GhostBatchNorm2d(x.shape[1], ghost_size=len(x) // 2)(inputs)
        else:
            layer = module(x.shape[1], dtype=dtype)
            out = torch.cat([layer(part) for part in inputs.split(len(x) // 2)])
        (found,) = torch.autograd.grad(out, inputs, grad.to(dtype))
        results[key] = (out.detach().double(), found.double())
    for place in range(2):
        scale = results["exact"][place].abs().max()
        errors = {key: float((results[key][place] - results["exact"][place]).abs().max() / scale) for key in results}
        # Far from zero the input itself is rounded: by half a unit in its last place, offset * 2**-24.
        assert errors["ghost"] <= max(4 * errors["torch"], 4e-6, 8 * offset * 2**-24 / scale), errors


def test_a_constant_channel_is_its_shift():
    x = torch.randn(8, 3, 4, 4)
    x[:, 1] = 7.0
    layer = GhostBatchNorm2d(3, ghost_size=4)
    nn.init.constant_(layer.bias, 2.0)
    torch.testing.assert_close(layer(x)[:, 1], torch.full((8, 4, 4), 2.0), rtol=0, atol=1e-3)
    assert torch.isfinite(layer.running_var).all()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded(name, dtype):
    torch.manual_seed(0)
    x = batch(name, dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    layer, reference = (GhostBatchNorm2d(x.shape[1], ghost_size=4) for _ in range(2))
    out, expected = layer(x), reference(wide)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=0)
    grad = torch.randn_like(x)
    out.backward(grad)
    expected.backward(grad.float())
    torch.testing.assert_close(x.grad, wide.grad.to(dtype), rtol=0, atol=0)
    assert layer.running_mean.dtype == torch.float32
    torch.testing.assert_close(layer.state_dict(), reference.state_dict(), rtol=0, atol=0)


def test_autocast_keeps_the_statistics_wide():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), GhostBatchNorm2d(8, ghost_size=4))
    x = torch.randn(13, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    hidden = nn.functional.conv2d(x.bfloat16(), model[0].weight.bfloat16(), model[0].bias.bfloat16())
    reference = GhostBatchNorm2d(8, ghost_size=4)
    reference(hidden.detach())
    torch.testing.assert_close(model[1].running_var, reference.running_var, rtol=1e-6, atol=0)


def test_a_model_in_half_precision_trains():
    layer = GhostBatchNorm1d(4, ghost_size=4).to(torch.bfloat16)
    layer(torch.randn(16, 4, dtype=torch.bfloat16)).sum().backward()
    assert layer.weight.grad.dtype == layer.running_mean.dtype == torch.bfloat16


def test_batches_that_do_not_lie_in_one_piece_and_gradients_that_lie_otherwise():
    torch.manual_seed(0)
    whole = torch.randn(12, 8, 6, 6, dtype=torch.float64)
    x = whole[:, ::2].requires_grad_()
    y = whole[:, ::2].contiguous().requires_grad_()
    a, b = (GhostBatchNorm2d(4, ghost_size=4, dtype=torch.float64) for _ in range(2))
    grad = torch.randn(12, 4, 6, 6, dtype=torch.float64).to(memory_format=torch.channels_last)
    a(x).backward(grad)
    b(y).backward(grad.contiguous())
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)
    z = y.detach().clone().requires_grad_()
    b(z).sum().backward()  # a gradient of stride 0
    assert z.grad.abs().max() < 1e-12


def test_an_in_place_relu_may_follow():
    for name in SHAPES:
        x = batch(name).requires_grad_()
        torch.relu_(GhostBatchNorm2d(x.shape[1], ghost_size=4, dtype=torch.float64)(x)).sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("wanted", ["input", "weight"])
def test_only_what_is_wanted_is_differentiated(wanted):
    for name in SHAPES:
        x = batch(name).requires_grad_(wanted == "input")
        layer = GhostBatchNorm2d(x.shape[1], ghost_size=4, dtype=torch.float64)
        layer.requires_grad_(wanted == "weight")
        (layer(x) * torch.randn_like(x)).sum().backward()
        assert (x.grad is None) == (wanted == "weight")
        assert (layer.weight.grad is None) == (wanted == "input")


def test_second_derivatives_by_gradgradcheck():
    torch.manual_seed(0)
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    layer = GhostBatchNorm2d(1, ghost_size=2, dtype=torch.float64, track_running_stats=False)
    assert ghost_function._form(x, Ghosts.of_batch(5, 2, 16)) is ghost_rows
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_functional_transforms_and_forward_mode_see_the_same_derivatives():
    torch.manual_seed(0)
    layer = GhostBatchNorm2d(3, ghost_size=4, dtype=torch.float64, track_running_stats=False)
    x, tangent, weight = (torch.randn(10, 3, 4, 4, dtype=torch.float64) for _ in range(3))

    def value(x):
        return (layer(x) * weight).sum()

    leaf = x.clone().requires_grad_()
    value(leaf).backward()
    torch.testing.assert_close(torch.func.grad(value)(x), leaf.grad, rtol=0, atol=1e-12)
    with warnings.catch_warnings():  # functorch scripts its decompositions, which this Python deprecates
        warnings.simplefilter("ignore")
        _, directional = torch.func.jvp(value, (x,), (tangent,))
    torch.testing.assert_close(directional, (leaf.grad * tangent).sum(), rtol=0, atol=1e-11)


COMPILED = """
import torch
from batchwright.nn import GhostBatchNorm2d
torch.manual_seed(0)
layer, other = (GhostBatchNorm2d(3, ghost_size=4, dtype=torch.float64) for _ in range(2))
compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
x = torch.randn(22, 3, 4, 4, dtype=torch.float64, requires_grad=True)
z = x.detach().clone().requires_grad_()
weight = torch.randn_like(x)
for _ in range(2):
    (layer(x) * weight).sum().backward()
    (compiled(z) * weight).sum().backward()
torch.testing.assert_close(z.grad, x.grad, rtol=0, atol=1e-11)
for size in (20, 17):  # another batch size, which the compiler then takes for a variable
    torch.testing.assert_close(compiled(x[:size].detach()), layer(x[:size].detach()), rtol=0, atol=1e-12)
torch.testing.assert_close(other.state_dict(), layer.state_dict(), rtol=0, atol=1e-12)
"""


def test_a_compiled_layer_is_the_layer_in_one_graph():
    # In a process of its own: the shape checks of the test run are not for a compiler.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_state_dicts_pass_between_torchs_layer_and_this_one():
    torch.manual_seed(0)
    layer, torchs = GhostBatchNorm2d(3, ghost_size=2), nn.BatchNorm2d(3)
    layer(torch.randn(8, 3, 4, 4))
    torchs.load_state_dict(layer.state_dict())
    again = GhostBatchNorm2d(3)
    again.load_state_dict(torchs.state_dict())
    torch.testing.assert_close(again.state_dict(), layer.state_dict(), rtol=0, atol=0)
    assert int(again.num_batches_tracked) == 4
