"""Kalman norm against ghost batch norm, a slow plain version, and gradients by differences."""

import copy

import pytest
import torch
from torch import nn

import batchwright as bw
from batchwright.core.errors import InputError
from batchwright.nn import ChannelState, GhostBatchNorm1d, GhostBatchNorm2d, KalmanNorm1d, KalmanNorm2d
from batchwright.nn.kalman_fusion import fuse

SHAPES = {"image": (6, 3, 4, 4), "small image": (6, 3, 2, 2), "signal": (6, 3, 5), "rows": (6, 3)}


def make(shape, **options) -> nn.Module:
    kind = KalmanNorm2d if len(shape) == 4 else KalmanNorm1d
    layer = kind(shape[1], **options).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        layer.weight.copy_(0.5 + torch.rand(shape[1], generator=generator))
        layer.bias.copy_(torch.randn(shape[1], generator=generator))
    return layer


def prior_of(channels: int, rows: int = 1, seed: int = 1) -> ChannelState:
    generator = torch.Generator().manual_seed(seed)
    return ChannelState(
        mean=0.5 * torch.randn(rows, channels, generator=generator, dtype=torch.float64),
        var=0.5 + torch.rand(rows, channels, generator=generator, dtype=torch.float64),
    )


def data(shape) -> torch.Tensor:
    return 0.7 + 1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slowly(layer, x, prior, ghost_size):
    """One ghost and channel after another, by the formulas of the paper."""
    q, out = layer.gain, torch.empty_like(x)
    means, variances = [], []
    for start in range(0, len(x), ghost_size):
        ghost = start // ghost_size
        part = x[start : start + ghost_size]
        row = ghost if prior.num_ghosts > 1 else 0
        for channel in range(x.shape[1]):
            values = part[:, channel].flatten()
            m, v = values.mean(), values.var(correction=0)
            p, w = prior.mean[row, channel], prior.var[row, channel]
            mu = q * p + (1 - q) * m
            sigma = q * w + (1 - q) * v + q * (1 - q) * (m - p) ** 2
            means.append(mu)
            variances.append(sigma)
            normal = (part[:, channel] - mu) / (sigma + layer.eps).sqrt()
            out[start : start + ghost_size, channel] = layer.weight[channel] * normal + layer.bias[channel]
    return out, torch.stack(means).view(-1, x.shape[1]), torch.stack(variances).view(-1, x.shape[1])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_layer_meets_the_slow_plain_version(shape, rows):
    layer, x = make(shape, gain=0.7, ghost_size=2, prior="raw"), data(shape)
    prior = prior_of(shape[1], rows)
    y, state = layer.normalize(x, prior)
    plain, means, variances = slowly(layer, x, prior, 2)
    torch.testing.assert_close(y, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.mean, means, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.var, variances, rtol=0, atol=1e-12)
    # Running statistics of all ghosts, with the variance between their means, times n / (n - 1).
    number = x.numel() // shape[1]
    mean = means.mean(0)
    var = (variances.mean(0) + (means - mean).square().mean(0)) * number / (number - 1)
    torch.testing.assert_close(layer.running_mean, 0.1 * mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * var, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gain_0_is_ghost_batch_norm(shape):
    kind = GhostBatchNorm2d if len(shape) == 4 else GhostBatchNorm1d
    layer = make(shape, gain=0.0, ghost_size=2)
    ghost = kind(shape[1], 2, running="batch", between_ghosts=True).double()
    ghost.load_state_dict(layer.state_dict())
    slope, found = data(shape).sin(), []
    for each, arguments in ((layer, (prior_of(shape[1]),)), (ghost, ())):
        x = data(shape).requires_grad_()
        out = each(x, *arguments)
        (out * slope).sum().backward()
        found.append([out, x.grad, each.weight.grad, each.bias.grad, each.running_mean, each.running_var])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


def test_gain_1_normalises_by_the_prior():
    layer, x, prior = make((6, 3, 4, 4), gain=1.0, ghost_size=2), data((6, 3, 4, 4)), prior_of(3)
    axes = (0, slice(None), None, None)
    normal = (x - prior.mean[axes]) / (prior.var[axes] + layer.eps).sqrt()
    plain = normal * layer.weight[axes[1:]] + layer.bias[axes[1:]]
    torch.testing.assert_close(layer(x, prior), plain, rtol=0, atol=1e-12)


def test_the_corrected_statistics_are_those_of_a_mixture():
    generator = torch.Generator().manual_seed(0)
    num, gain = 2_000_000, 0.3
    noise = torch.randn(num, generator=generator, dtype=torch.float64)
    first = torch.rand(num, generator=generator) < gain
    drawn = torch.where(first, 0.4 + 1.3 * noise, 2.0 + 0.9 * noise)
    prior = ChannelState(mean=torch.tensor([[0.4]]), var=torch.tensor([[1.69]]))
    mean, var = fuse(torch.tensor([[2.0]]), torch.tensor([[0.81]]), prior, gain)
    assert abs(float(mean) / drawn.mean() - 1) < 0.005
    assert abs(float(var) / drawn.var() - 1) < 0.005


# The image of 12 pixels takes the fast form, the other two the plain one; ghosts of 2, 2 and 1 or 2 and 3 examples.
@pytest.mark.parametrize(
    ("shape", "rows", "affine"),
    [((5, 2, 3, 4), 3, True), ((5, 2, 3, 4), 1, False), ((4, 2, 2, 2), 1, True), ((5, 2), 2, True)],
)
def test_gradients_of_output_and_state_meet_differences(shape, rows, affine):
    layer = make(shape, gain=0.6, ghost_size=2, prior="raw", track_running_stats=False)
    prior = prior_of(shape[1], rows)
    tensors = [data(shape), prior.mean, prior.var] + ([layer.weight, layer.bias] if affine else [])
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]

    def run(x, mean, var, weight=None, bias=None):
        held = copy.copy(layer)
        held._parameters = {"weight": weight, "bias": bias}
        out, state = held.normalize(x, ChannelState(mean=mean, var=var))
        return out, state.mean, state.var

    assert torch.autograd.gradcheck(run, tensors)


def test_second_gradients_meet_differences():
    layer = make((4, 1, 3, 4), gain=0.6, ghost_size=2, prior="raw", track_running_stats=False)
    prior = prior_of(1)
    tensors = [each.detach().clone().requires_grad_() for each in (data((4, 1, 3, 4)), prior.mean, prior.var)]

    def run(x, mean, var):
        return layer.normalize(x, ChannelState(mean=mean, var=var))[0]

    assert torch.autograd.gradgradcheck(run, tensors)


def test_the_fast_form_meets_the_plain_one_in_single_precision(monkeypatch):
    from batchwright.nn import kalman_function

    found = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(kalman_function, "MIN_ROW", 10**9)
        layer = make((9, 3, 4, 4), gain=0.6, ghost_size=2, prior="raw").float()
        x = data((9, 3, 4, 4)).float().requires_grad_()
        prior = prior_of(3)
        mean = prior.mean.float().requires_grad_()
        var = prior.var.float().requires_grad_()
        y, state = layer.normalize(x, ChannelState(mean=mean, var=var))
        (y.sin().sum() + state.mean.square().sum() + state.var.sum()).backward()
        found.append([y, state.mean, state.var, x.grad, mean.grad, var.grad, layer.weight.grad, layer.bias.grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_gate_leaves_out_a_prior_of_far_too_large_variance():
    x = data((6, 3, 4, 4))
    far = ChannelState(mean=torch.zeros(1, 3).double(), var=torch.full((1, 3), 1e6).double())
    gated, ghost = make(x.shape, ghost_size=2), make(x.shape, gain=0.0, ghost_size=2)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outs = [gated(inputs[0], far), ghost(inputs[1])]
    for out in outs:
        (out * x.cos()).sum().backward()
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-12)
    ungated = make(x.shape, ghost_size=2, gate=None)
    assert (ungated(x, far) - outs[1]).abs().max() > 0.1


def test_a_gate_closes_where_the_batch_has_no_variance_and_nothing_becomes_nan():
    layer = make((4, 3, 4, 4), ghost_size=2)
    x = torch.ones(4, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    prior = prior_of(3)
    mean = prior.mean.requires_grad_()
    out = layer(x, ChannelState(mean=mean, var=prior.var))
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert mean.grad.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_evaluation_is_batch_norms_from_running_statistics(shape):
    layer = make(shape, ghost_size=2)
    layer(data(shape), prior_of(shape[1]))
    layer.eval()
    plain = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1]).double().eval()
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(data(shape)), plain(data(shape)), rtol=0, atol=0)
    before = copy.deepcopy(layer.state_dict())
    layer(data(shape), prior_of(shape[1]))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_state_dicts_load_from_and_into_batch_norm():
    plain, layer = nn.BatchNorm2d(3), KalmanNorm2d(3, ghost_size=2)
    plain(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    layer.load_state_dict(plain.state_dict())
    assert layer.state_dict().keys() == plain.state_dict().keys()
    nn.BatchNorm2d(3).load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.running_var, plain.running_var, rtol=0, atol=0)


def test_running_statistics_of_the_first_ghost_are_those_of_the_official_code():
    layer = make((6, 3, 4, 4), gain=0.7, ghost_size=2, running="first", prior="raw")
    _, state = layer.normalize(data((6, 3, 4, 4)), prior_of(3))
    torch.testing.assert_close(layer.running_mean, 0.1 * state.mean[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * state.var[0], rtol=0, atol=1e-12)


def test_without_momentum_running_statistics_are_the_average_over_batches():
    layer = make((4, 2, 4, 4), gain=0.0, ghost_size=None, momentum=None)
    batches = [data((4, 2, 4, 4)), data((4, 2, 4, 4)) * 2 - 1]
    for batch in batches:
        layer(batch)
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(layer.running_mean, mean, rtol=0, atol=1e-12)


def test_the_outgoing_state_is_what_enters_the_relu_or_the_corrected_input():
    x, prior = data((6, 3, 4, 4)), prior_of(3)
    layer = make(x.shape, ghost_size=2)
    _, state = layer.normalize(x, prior)
    torch.testing.assert_close(state.mean[0], layer.bias, rtol=0, atol=0)
    torch.testing.assert_close(state.var[0], layer.weight.square(), rtol=0, atol=0)
    raw = make(x.shape, ghost_size=2, prior="raw")
    assert raw.normalize(x, prior)[1].mean.shape == (3, 3)


def test_the_last_ghost_may_be_of_another_size():
    layer = make((5, 3, 4, 4), gain=0.7, ghost_size=2, prior="raw")
    x, prior = data((5, 3, 4, 4)), prior_of(3)
    y, state = layer.normalize(x, prior)
    plain, means, _ = slowly(layer, x, prior, 2)
    torch.testing.assert_close(y, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.mean, means, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_memory_formats_give_the_same_numbers(memory):
    layer, prior = make((6, 3, 4, 4), ghost_size=2), prior_of(3)
    x = data((6, 3, 4, 4))
    given = x.to(memory_format=torch.channels_last) if memory == "channels_last" else x
    torch.testing.assert_close(layer(given, prior), slowly(layer, x, prior, 2)[0], rtol=0, atol=1e-12)


def test_bad_options_and_priors_are_refused():
    for options, words in (
        ({"gain": 1.5}, "gain must be a finite number and at least 0 and at most 1, got 1.5"),
        ({"ghost_size": 0}, "ghost_size must be an integer of at least 1, got 0"),
        ({"gate": 0.0}, "gate must be a finite number and above 0, got 0.0"),
        ({"prior": "posterior"}, "prior must be one of consistent, raw"),
        ({"running": "last"}, "running must be one of all, first"),
    ):
        with pytest.raises(InputError, match=words):
            KalmanNorm2d(3, **options)
    layer = make((6, 3, 4, 4), ghost_size=2)
    with pytest.raises(InputError, match=r"prior must be of shape \(3, 3\) or \(1, 3\), .*got \(2, 3\)"):
        layer(data((6, 3, 4, 4)), prior_of(3, rows=2))
    with pytest.raises(InputError, match=r"prior must be of shape \(3, 3\)"):
        layer(data((6, 3, 4, 4)), prior_of(4))
    with pytest.raises(InputError, match="at least 2 values a channel"):
        KalmanNorm1d(3, ghost_size=1)(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="expected 4D input"):
        KalmanNorm2d(3)(torch.zeros(4, 3))


def test_the_layer_is_public():
    assert bw.nn.KalmanNorm2d is KalmanNorm2d
    assert "gain=0.9, ghost_size=2" in repr(KalmanNorm2d(3, ghost_size=2))


def test_calibration_takes_the_corrected_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    ).double()
    bw.nn.convert(model, "kalman", ghost_size=2)
    batches = [data((6, 3, 8, 8)), data((6, 3, 8, 8)).cos()]
    bw.nn.calibrate(model, batches)
    held = model[4].running_mean.clone(), model[4].running_var.clone()
    # One update of each batch with weights 1 and 1/2 is the same mean; ghosts are of one size.
    model[4].momentum = None
    model[4].reset_running_stats()
    for batch in batches:
        model(batch)
    torch.testing.assert_close(model[4].running_mean, held[0], rtol=0, atol=1e-12)
    with torch.no_grad():
        model.eval()
        out = torch.cat([model(batch) for batch in batches])
    plain = copy.deepcopy(model)
    bw.nn.convert(plain, "batch")
    bw.nn.calibrate(plain, batches)
    with torch.no_grad():
        assert (plain.eval()(batches[0]) - out[:6]).abs().max() > 0.01
