"""What must hold exactly, or in the mean of many draws: the estimators, the sign flip, the table of Dirac pairs, the clip.

Source: spec sheet of the study, sections 1.1, 1.2, 1.4, 1.8, and reproduction targets 1, 2 and 6.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from batchwright.gan import GaussianMixture, dcgan_networks, mmd2
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

# The target names 200 draws, whose mean has an interval as wide as what passes; ten times as many settle it in a second.
NUM_DRAWS = 2000
THETAS = (1.0, 0.1, 0.01)
SMMD_WEIGHT = 10.0
ONE_GAUSSIAN = GaussianMixture(stds=(1.0,))


def run_identities(place: Place, *, seed: int) -> Mapping[str, Any]:
    """The values of each draw, the largest differences, and the suprema over critics."""
    return {
        "estimators": estimators(seed, dim=10, batch_size=64),
        "biases": {
            f"{dim}/{size}": estimators(seed, dim=dim, batch_size=size, num_draws=40)["biased"]
            for dim in (1, 10, 64)
            for size in (16, 64, 256, 1000)
        },
        "flip": flip_difference(seed),
        "diracs": {f"{theta:g}": dirac_suprema(theta) for theta in THETAS},
        "clip": clip_distances(seed),
        "regime": quadratic_ratio(seed),
    }


def estimators(seed: int, *, dim: int, batch_size: int, num_draws: int = NUM_DRAWS) -> Mapping[str, list[float]]:
    """Both estimates of the squared MMD of two samples of one law, ``N(0, I)``, draw by draw."""
    generator = stream(seed, "mmd-gan", "estimators", dim, batch_size)
    found: dict[str, list[float]] = {"biased": [], "unbiased": []}
    for _ in range(num_draws):
        x, y = torch.randn(2, batch_size, dim, generator=generator)
        for name, values in found.items():
            values.append(float(mmd2(x, y, unbiased=name == "unbiased")))
    return found


def expected_bias(dim: int, batch_size: int) -> float:
    """Mean of the biased estimate for two samples of ``N(0, I)``: ``2/B (k(0) - E k(x, x'))``."""
    kernel = GaussianMixture()
    mean = math.fsum((std**2 / (std**2 + 2)) ** (dim / 2) for std in kernel.stds)
    return 2 / batch_size * (len(kernel.stds) - mean)


def flip_difference(seed: int) -> float:
    """Change of the biased estimate, in double precision, when the signs of some coordinates of both samples are flipped."""
    generator = stream(seed, "mmd-gan", "flip")
    x, y = torch.randn(2, 64, 10, generator=generator, dtype=torch.float64)
    signs = torch.where(torch.rand(10, generator=generator) < 0.5, -1.0, 1.0).double()
    return abs(float(mmd2(x, y, unbiased=False) - mmd2(x * signs, y * signs, unbiased=False)))


def dirac_suprema(theta: float) -> Mapping[str, float]:
    """Distances of two point masses at 0 and ``theta`` by critics ``f(x) = psi x`` and one Gaussian of deviation 1.

    Returns:
        ``clipped``: the supremum of the MMD over ``|psi| <= 1``; ``unbounded``: over all of them; ``scaled``: the root of the
        supremum of ``MMD^2 / (1 + 10 psi^2)``; ``js``: the Jensen-Shannon divergence, in nats.
    """

    def squared(psi: float) -> float:
        x, y = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), psi * theta, dtype=torch.float64)
        return float(mmd2(x, y, ONE_GAUSSIAN, unbiased=False))

    return {
        "clipped": math.sqrt(_supremum(squared, 1.0)),
        "unbounded": math.sqrt(_supremum(squared, 1e4)),
        "scaled": math.sqrt(_supremum(lambda psi: squared(psi) / (1 + SMMD_WEIGHT * psi**2), 1e4)),
        "js": _jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([float(theta == 0), float(theta != 0)])),
    }


def clip_distances(seed: int) -> Mapping[str, float]:
    """Mean distance of the features of pairs of images under the paper's critic for CIFAR-10, before and after the first clip."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = dcgan_networks(32, 3).critic
    assert critic is not None
    images = 2 * torch.rand(64, 3, 32, 32, generator=stream(seed, "mmd-gan", "clip")) - 1
    found = {}
    with torch.no_grad():
        found["before"] = float(torch.pdist(critic(images)).mean())
        for parameter in critic.parameters():
            parameter.clamp_(-0.01, 0.01)
        found["after"] = float(torch.pdist(critic(images)).mean())
        for parameter in critic.parameters():
            parameter.fill_(0.01)
        found["largest"] = float(torch.pdist(critic(images)).mean())
    return found


def quadratic_ratio(seed: int, scale: float = 0.03) -> float:
    """The biased estimate over ``sum_s 1/s^2`` times the squared distance of the means, for features as near as a clip leaves them."""
    generator = stream(seed, "mmd-gan", "regime")
    x, y = scale / math.sqrt(2 * 128) * torch.randn(2, 64, 128, generator=generator, dtype=torch.float64)
    slope = sum(1 / std**2 for std in GaussianMixture().stds)
    return float(mmd2(x, y, unbiased=False)) / (slope * float((x.mean(0) - y.mean(0)).square().sum()))


def _supremum(function: Callable[[float], float], limit: float, num: int = 400) -> float:
    """Largest value on a grid of ``psi`` in ``[-limit, limit]``, even in the logarithm; each function here is even in ``psi``."""
    places = torch.logspace(-5, math.log10(limit), num, dtype=torch.float64)
    return max(function(float(psi)) for psi in places)


def _jensen_shannon(p: Tensor, q: Tensor) -> float:
    mean = (p + q) / 2

    def divergence(one: Tensor) -> Tensor:
        return (torch.xlogy(one, one) - torch.xlogy(one, mean)).sum()

    return float((divergence(p) + divergence(q)) / 2)
