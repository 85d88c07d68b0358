"""Level and power of the two-sample tests on laws where an exact competitor's power is known.

The competitor is Hotelling's T^2, the best invariant test of a shift of the mean under equal covariances; its power is that of a
noncentral F. It sees means alone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from batchwright.gan import median_gaussians, mmd2_blocks, two_sample_test
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

LEVEL = 0.05
DIM, NUM_POINTS = 5, 100
SHIFTS = (0.25, 0.4, 0.58)
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]


def run_level(place: Place, *, seed: int, num_repeats: int) -> Mapping[str, Any]:
    """How often each test rejects two samples of one law at 5 %."""
    generator = stream(seed, "mmd-gan", "level")

    def normal(m: int, n: int, dim: int) -> tuple[Tensor, Tensor]:
        return torch.randn(m, dim, generator=generator), torch.randn(n, dim, generator=generator)

    cases: Mapping[str, tuple[tuple[int, int, int], str]] = {
        "permutation, 50 and 50 points in 2 dimensions": ((50, 50, 2), "permutation"),
        "permutation, 60 and 30 points in 10 dimensions": ((60, 30, 10), "permutation"),
        "linear time, 1,000 points in 2 dimensions": ((1000, 1000, 2), "linear"),
        "blocks, 400 points in 2 dimensions": ((400, 400, 2), "block"),
    }
    found = {}
    for name, (sizes, method) in cases.items():
        rejected = 0
        for _ in range(num_repeats):
            x, y = normal(*sizes)
            rejected += _rejects(x, y, method, generator)
        found[name] = rejected / num_repeats
    return {"num_repeats": num_repeats, "rejected": found}


def run_power(place: Place, *, seed: int, num_repeats: int) -> Mapping[str, Any]:
    """How often the permutation test, and Hotelling's, reject 100 and 100 points in 5 dimensions whose laws differ."""
    generator = stream(seed, "mmd-gan", "power")
    found = {}
    for name, draw in pairs().items():
        ours = theirs = 0
        for _ in range(num_repeats):
            x, y = draw(generator)
            ours += _rejects(x, y, "permutation", generator)
            theirs += hotelling_p_value(x, y) <= LEVEL
        found[name] = {"mmd": ours / num_repeats, "hotelling": theirs / num_repeats}
    return {
        "num_repeats": num_repeats,
        "rejected": found,
        "exact": {_shift(size): hotelling_power(size) for size in SHIFTS},
    }


def pairs() -> Mapping[str, Draw]:
    """Three shifts of a normal law, one of its scale, and one of its shape alone."""

    def shifted(size: float) -> Draw:
        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            x, y = torch.randn(2, NUM_POINTS, DIM, generator=generator)
            y[:, 0] += size
            return x, y

        return draw

    def wider(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = torch.randn(2, NUM_POINTS, DIM, generator=generator)
        return x, 1.3 * y

    def dependent(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = torch.randn(2, NUM_POINTS, DIM, generator=generator)
        y[:, 1] = 0.8 * y[:, 0] + 0.6 * y[:, 1]
        return x, y

    return {**{_shift(size): shifted(size) for size in SHIFTS}, "scale 1.3": wider, "correlation 0.8": dependent}


def hotelling_p_value(x: Tensor, y: Tensor) -> float:
    """P-value of Hotelling's two-sample test."""
    from scipy.stats import f

    m, n, dim = len(x), len(y), x.shape[1]
    pooled = ((m - 1) * torch.cov(x.T) + (n - 1) * torch.cov(y.T)) / (m + n - 2)
    difference = (x.mean(0) - y.mean(0)).double()
    squared = m * n / (m + n) * float(difference @ torch.linalg.solve(pooled.double(), difference))
    dof = m + n - dim - 1
    return float(f.sf(squared * dof / (dim * (m + n - 2)), dim, dof))


def hotelling_power(size: float) -> float:
    """Its exact power against a shift of one standard normal coordinate by ``size``."""
    from scipy.stats import f, ncf

    dof = 2 * NUM_POINTS - DIM - 1
    return float(ncf.sf(f.isf(LEVEL, DIM, dof), DIM, dof, NUM_POINTS / 2 * size**2))


def binomial_error(share: float, num: int) -> float:
    """Standard error of a share of ``num`` repeats."""
    return math.sqrt(max(share * (1 - share), 1 / num) / num)


def _rejects(x: Tensor, y: Tensor, method: str, generator: torch.Generator) -> bool:
    kernel = median_gaussians(torch.cat([x, y]))
    if method == "block":
        return mmd2_blocks(x, y, kernel).p_value <= LEVEL
    test = two_sample_test(x, y, kernel, method=method, num_permutations=199, generator=generator)
    return test.rejects(LEVEL)


def _shift(size: float) -> str:
    return f"shift {size:g}"
