"""The state's way through linear layers and convolutions, against slow sums and samples of the layer itself."""

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.nn import ChannelState
from batchwright.nn.gaussian_moments import relu_moments
from batchwright.nn.linear_moments import linear_moments, transposed_moments
from batchwright.nn.sampled_moments import sampled_moments


def random_state(channels: int, rows: int = 1, seed: int = 0, dtype=torch.float64) -> ChannelState:
    generator = torch.Generator().manual_seed(seed)
    return ChannelState(
        mean=torch.randn(rows, channels, generator=generator, dtype=dtype),
        var=0.2 + torch.rand(rows, channels, generator=generator, dtype=dtype),
    )


@pytest.mark.parametrize(("groups", "rows"), [(1, 1), (2, 3), (6, 1)])
def test_a_convolution_meets_the_sum_over_channels_and_taps(groups, rows):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 12, 3, groups=groups, dtype=torch.float64)
    state = random_state(6, rows)
    found = linear_moments(state, layer.weight, layer.bias, groups)
    for row in range(rows):
        for out in range(12):
            first = (out // (12 // groups)) * (6 // groups)
            mean, var = float(layer.bias.detach()[out]), 0.0
            for inner in range(6 // groups):
                for tap in layer.weight.detach()[out, inner].flatten().tolist():
                    mean += tap * float(state.mean[row, first + inner])
                    var += tap**2 * float(state.var[row, first + inner])
            assert float(found.mean.detach()[row, out]) == pytest.approx(mean, abs=1e-12)
            assert float(found.var.detach()[row, out]) == pytest.approx(var, abs=1e-12)


def test_a_linear_layer_meets_samples():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3, dtype=torch.float64)
    state, num = random_state(5), 300_000
    drawn = layer(state.mean + state.var.sqrt() * torch.randn(num, 5, dtype=torch.float64)).detach()
    found = linear_moments(state, layer.weight, layer.bias)
    assert ((found.mean[0] - drawn.mean(0)).abs() < 4 * drawn.std(0) / num**0.5).all()
    squared = (drawn - drawn.mean(0)).square()
    assert ((found.var[0] - drawn.var(0)).abs() < 4 * squared.std(0) / num**0.5).all()


def test_relu_and_convolution_meet_the_papers_samples_with_valid_padding():
    """Variance within 0.5 per cent, mean within 0.01."""
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, 3, bias=False)
    gaussian = random_state(16, dtype=torch.float32)
    mean, var = relu_moments(gaussian.mean, gaussian.var)
    state = ChannelState(mean=mean, var=var, before=gaussian)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        closed = linear_moments(state, layer.weight, None)
        # One field as large as all, whose own mean hardly varies.
        field = sampled_moments(state, layer, (700, 700), generator=generator)
    assert (field.mean - closed.mean).abs().max() < 0.01
    assert abs(float((field.var / closed.var).mean()) - 1) < 0.005


def test_samples_see_the_zeros_of_the_padding_and_the_closed_form_does_not():
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    mean, var = relu_moments(torch.full((1, 16), 0.5), torch.ones(1, 16))
    state = ChannelState(mean=mean, var=var)
    with torch.no_grad():
        closed = linear_moments(state, layer.weight, None)
        fields = [
            sampled_moments(state, layer, (8, 8), generator=torch.Generator().manual_seed(seed)) for seed in range(400)
        ]
    means = torch.cat([field.mean for field in fields])
    off = (means.mean(0) - closed.mean[0]).abs()
    assert (off > 4 * means.std(0) / 20).any()


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(2, 2, 1), (3, 2, 1), (4, 2, 2), (3, 1, 1)])
def test_a_transposed_convolution_meets_samples_away_from_the_border(kernel, stride, groups):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, kernel, stride, groups=groups, dtype=torch.float64)
    state = random_state(4)
    found = transposed_moments(state, layer)
    num = 400
    field = state.mean[..., None, None] + state.var.sqrt()[..., None, None] * torch.randn(num, 4, 24, 24).double()
    with torch.no_grad():
        out = layer(field)[:, :, 8:-8, 8:-8]
    side = out.shape[-1] // stride * stride
    out = out[..., :side, :side]
    mean, var = out.mean((0, 2, 3)), out.var((0, 2, 3))
    each = out.mean((2, 3))
    assert ((found.mean[0] - mean).abs() < 4 * each.std(0) / num**0.5).all()
    torch.testing.assert_close(found.var[0], var, rtol=0.02, atol=0)


def test_gradients_flow_into_the_weights():
    layer = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    state = random_state(3)

    def both(weight):
        out = linear_moments(state, weight, None)
        return out.mean, out.var

    assert torch.autograd.gradcheck(both, (layer.weight.detach().requires_grad_(),))


def test_a_state_of_other_channels_is_refused():
    with pytest.raises(InputError, match="state must have 3 channels, those of the layer's input, got 5"):
        linear_moments(random_state(5), torch.zeros(2, 3), None)
    with pytest.raises(InputError, match="dilation 1"):
        transposed_moments(random_state(3), nn.ConvTranspose2d(3, 3, 3, dilation=2))
