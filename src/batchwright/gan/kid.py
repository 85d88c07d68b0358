"""Kernel inception distance: the squared MMD of features under the cubic kernel.

Source: Binkowski et al. (2018), arXiv:1801.01401, section 4. Deviation: the published error is the scatter of subsets,
    which are drawn from the same
samples and overlap, so it is no error of the distance; here the interval is that of the distance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.core.kernels import Kernel, Polynomial
from batchwright.core.mmd import MmdEstimate, mmd2_estimate
from batchwright.core.preserve import preserved
from batchwright.core.statistics import normal_quantile

Extractor = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kid:
    """Kernel inception distance with its interval.

    Attributes:
        value: Mean of the subsets' unbiased squared MMDs, or that of all pairs; below zero by chance where the samples are
            equally good.
        low: Lower end of the interval for the distance of the two laws.
        high: Upper end.
        level: Nominal coverage.
        subset_std: Standard deviation over the subsets, which is what other tools print beside the value; NaN for one
            subset or all pairs.
        num_subsets: Subsets; 0 for all pairs.
        subset_size: Points of each sample in a subset.
        num_real: Real points.
        num_generated: Generated points.
    """

    value: float
    low: float
    high: float
    level: float
    subset_std: float
    num_subsets: int
    subset_size: int
    num_real: int
    num_generated: int


def kid(
    real: Float[Tensor, "M ..."],
    generated: Float[Tensor, "N ..."],
    *,
    extractor: Extractor | None = None,
    num_subsets: int | None = 50,
    subset_size: int = 1000,
    kernel: Kernel | None = None,
    generator: torch.Generator | None = None,
    level: float = 0.95,
    batch_size: int = 256,
) -> Kid:
    """Measure the kernel inception distance of two samples of any two sizes.

    Scores of different feature extractors, or of different subset sizes' scatter, cannot be compared. All sums are in float64.

    Args:
        real: Features ``(M, h)``, or whatever ``extractor`` takes.
        generated: As ``real``; the number may differ.
        extractor: Maps a batch of examples to features ``(B, h)``; a module runs in evaluation mode and is left as it was.
            The points are features already where left out.
        num_subsets: Subsets to average over, each drawn without replacement; None takes all pairs once, which has the
            smallest error and takes time ``(M + N)^2``.
        subset_size: Points of each sample in a subset.
        kernel: Cubic, ``(<a, b> / h + 1)^3``, where left out.
        generator: Draws the subsets; torch's default generator where left out.
        level: Nominal coverage of the interval: normal, from the unbiased variance of the estimate. It holds for laws that differ.
        batch_size: Examples in one call of ``extractor``.

    Raises:
        InputError: If a subset is larger than a sample or has fewer than 4 points, or the features do not go together.

    Example:
        >>> same = torch.ones(10, 3)
        >>> kid(same, same, num_subsets=None).value
        0.0
    """
    check_number("level", level, above=0.0, below=1.0)
    kernel = Polynomial() if kernel is None else kernel
    x, y = (
        _features(name, sample, extractor, batch_size) for name, sample in (("real", real), ("generated", generated))
    )
    if num_subsets is None:
        whole = mmd2_estimate(x, y, kernel, level=level)
        return _result([whole], whole.value, whole.variance, 0, min(len(x), len(y)), x, y, level)
    check_int("num_subsets", num_subsets, at_least=1)
    check_int("subset_size", subset_size, at_least=4)
    smaller = min(len(x), len(y))
    if subset_size > smaller:
        raise InputError(
            f"subset_size must be at most the number of points of the smaller sample, got subset_size={subset_size} for {len(x)} real "
            f"and {len(y)} generated ones; use subset_size={smaller}, or num_subsets=None for all pairs"
        )
    parts = [
        mmd2_estimate(_subset(x, subset_size, generator), _subset(y, subset_size, generator), kernel)
        for _ in range(num_subsets)
    ]
    values = torch.tensor([part.value for part in parts], dtype=torch.float64)
    # The mean over subsets scatters as the estimate of all pairs does, and about it by what the choice of the subsets adds.
    variance = sum(part.parts.variance(len(x), len(y)) for part in parts) / num_subsets
    if num_subsets > 1:
        variance += float(values.var()) / num_subsets
    elif subset_size < max(len(x), len(y)):
        variance = parts[0].variance
    return _result(parts, float(values.mean()), variance, num_subsets, subset_size, x, y, level)


def _result(
    parts: list[MmdEstimate],
    value: float,
    variance: float,
    num_subsets: int,
    subset_size: int,
    x: Tensor,
    y: Tensor,
    level: float,
) -> Kid:
    reach = normal_quantile(level) * math.sqrt(max(variance, 0.0))
    values = torch.tensor([part.value for part in parts], dtype=torch.float64)
    return Kid(
        value=value,
        low=value - reach,
        high=value + reach,
        level=level,
        subset_std=float(values.std()) if num_subsets > 1 else math.nan,
        num_subsets=num_subsets,
        subset_size=subset_size,
        num_real=len(x),
        num_generated=len(y),
    )


def _subset(points: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return points[torch.randperm(len(points), generator=generator, device=device)[:size].to(points.device)]


def _features(name: str, sample: Tensor, extractor: Extractor | None, batch_size: int) -> Tensor:
    if extractor is None:
        found = sample
    else:
        check_int("batch_size", batch_size, at_least=1)
        found = extract(sample, extractor, batch_size)
    if found.ndim != 2:
        raise InputError(
            f"{name} must give one row of features an example, got shape {tuple(found.shape)}; give an extractor, or flatten(1)"
        )
    return found.detach().double()


@torch.no_grad()
def extract(sample: Tensor, extractor: Extractor, batch_size: int = 256) -> Tensor:
    """Features of a sample in parts; a module runs in evaluation mode and is left as it was."""
    if isinstance(extractor, nn.Module):
        with preserved(extractor):
            extractor.eval()
            return torch.cat([extractor(part) for part in sample.split(batch_size)])
    return torch.cat([extractor(part) for part in sample.split(batch_size)])
