"""What the method's parts must be, against samples and plain forms: the mixture rule, the ReLU moments, the way through a convolution.

Source: spec sheet of the study, reproduction targets 1 to 4.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.nn import ChannelState, GhostBatchNorm2d, KalmanNorm2d
from batchwright.nn.channel_state import pad_channels
from batchwright.nn.gaussian_moments import relu_moments
from batchwright.nn.kalman_fusion import fuse
from batchwright.nn.linear_moments import linear_moments
from batchwright.nn.sampled_moments import sampled_moments
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

NUM_SAMPLES = 2_000_000
# Mean and variance before the ReLU.
GAUSSIANS = ((-1.0, 0.5), (0.0, 1.0), (0.3, 2.0), (2.0, 1.0))


def run_identities(place: Place, *, seed: int) -> Mapping[str, Any]:
    """Largest errors of each identity."""
    return {
        "gain_zero": gain_zero_error(seed),
        "gain_one": gain_one_error(seed),
        "mixture": mixture_errors(seed),
        "relu": relu_errors(seed),
        "valid": convolution_errors(seed, size=34, padding=0),
        "same_8": convolution_errors(seed, size=8, padding=1),
        "same_32": convolution_errors(seed, size=32, padding=1),
        "padding": padded_example(),
    }


def gain_zero_error(seed: int) -> float:
    """Largest difference between a gain of 0 and ghost batch norm: outputs, gradients and running statistics, double precision."""
    generator = stream(seed, "kalman-norm", "gain-zero")
    x = torch.randn(12, 5, 4, 4, generator=generator, dtype=torch.float64)
    slope = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    prior = ChannelState(mean=torch.randn(1, 5, generator=generator), var=torch.ones(1, 5))
    found = []
    for layer, arguments in (
        (KalmanNorm2d(5, 0.0, 2, dtype=torch.float64), (prior,)),
        (GhostBatchNorm2d(5, 2, running="batch", between_ghosts=True, dtype=torch.float64), ()),
    ):
        given = x.clone().requires_grad_()
        out: Tensor = layer(given, *arguments)
        (out * slope).sum().backward()
        assert isinstance(layer, nn.BatchNorm2d)
        found.append(
            [out.detach(), given.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var]
        )
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


def gain_one_error(seed: int) -> float:
    """Largest difference between a gain of 1 and normalising by the prior."""
    generator = stream(seed, "kalman-norm", "gain-one")
    x = torch.randn(12, 5, 4, 4, generator=generator, dtype=torch.float64)
    prior = ChannelState(
        mean=torch.randn(1, 5, generator=generator, dtype=torch.float64),
        var=0.5 + torch.rand(1, 5, generator=generator, dtype=torch.float64),
    )
    layer = KalmanNorm2d(5, 1.0, 2, dtype=torch.float64)
    plain = (x - prior.mean[0, :, None, None]) / (prior.var[0, :, None, None] + layer.eps).sqrt()
    return float((layer(x, prior) - plain).detach().abs().max())


def mixture_errors(seed: int) -> Mapping[str, float]:
    """Relative error of the corrected mean and variance against samples of the mixture."""
    generator = stream(seed, "kalman-norm", "mixture")
    gain, means, variances = 0.3, (0.4, 2.0), (1.7, 0.8)
    from_prior = torch.rand(NUM_SAMPLES, generator=generator) < gain
    noise = torch.randn(NUM_SAMPLES, generator=generator, dtype=torch.float64)
    drawn = torch.where(
        from_prior, means[0] + math.sqrt(variances[0]) * noise, means[1] + math.sqrt(variances[1]) * noise
    )
    prior = ChannelState(mean=torch.tensor([[means[0]]]).double(), var=torch.tensor([[variances[0]]]).double())
    mean, var = fuse(torch.tensor([[means[1]]]).double(), torch.tensor([[variances[1]]]).double(), prior, gain)
    return _relative(mean, var, drawn)


def relu_errors(seed: int) -> Mapping[str, float]:
    """Largest relative error of the ReLU moments against samples."""
    generator = stream(seed, "kalman-norm", "relu")
    noise = torch.randn(NUM_SAMPLES, generator=generator, dtype=torch.float64)
    found = []
    for mean, var in GAUSSIANS:
        closed = relu_moments(torch.tensor(mean).double(), torch.tensor(var).double())
        found.append(_relative(*closed, torch.relu(mean + math.sqrt(var) * noise)))
    return {name: max(each[name] for each in found) for name in ("mean", "var")}


def convolution_errors(seed: int, *, size: int, padding: int, num_fields: int = 2000) -> Mapping[str, float]:
    """Samples through a 3 x 3 convolution against the closed form: root mean square error of the mean, ratio of the variances.

    The average over ``num_fields`` fields, and the scatter of the mean from one field to the next.
    """
    generator = stream(seed, "kalman-norm", "convolution", size, padding)
    channels = 16
    layer = nn.Conv2d(channels, channels, 3, padding=padding, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", generator=generator)
    gaussian = ChannelState(
        mean=0.5 * torch.randn(1, channels, generator=generator), var=0.5 + torch.rand(1, channels, generator=generator)
    )
    mean, var = relu_moments(gaussian.mean, gaussian.var)
    state = ChannelState(mean=mean, var=var, before=gaussian)
    with torch.no_grad():
        closed = linear_moments(state, layer.weight, None)
        fields = [sampled_moments(state, layer, (size, size), generator=generator) for _ in range(num_fields)]
        means = torch.cat([field.mean for field in fields])
        variances = torch.cat([field.var for field in fields])
        # The mean of one field varies too, so its variance belongs to the whole's.
        whole = variances.mean(0) + means.var(0)
        return {
            "mean": float((means.mean(0) - closed.mean[0]).square().mean().sqrt()),
            "var_ratio": float((whole / closed.var[0]).mean()),
            "scatter": float(means.std(0).mean()),
        }


def padded_example() -> list[list[int]]:
    """Four ghosts of two channels padded by one channel on both sides: the trap of one long vector."""
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    return pad_channels(ChannelState(mean=values, var=values), 1, 1).mean.int().tolist()


def _relative(mean: Tensor, var: Tensor, drawn: Tensor) -> Mapping[str, float]:
    return {"mean": float((mean / drawn.mean() - 1).abs()), "var": float((var / drawn.var() - 1).abs())}
