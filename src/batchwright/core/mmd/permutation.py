"""Two-sample test by permutations: under equal laws every split of the pooled points is as likely as the one that was seen.

Source: Gretton et al. (2012), JMLR 13; the p-value counts the observed split among the permuted ones (Phipson and Smyth
    2010), which makes the
level exact at any number of permutations.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_choice, check_int
from batchwright.core.errors import InputError
from batchwright.core.kernels import Kernel
from batchwright.core.kernels.kernel import uses
from batchwright.core.kernels.pairs import pairs_of
from batchwright.core.mmd.blocks import cut, default_block
from batchwright.core.mmd.sampled_pairs import mmd2_blocks, mmd2_linear
from batchwright.core.mmd.value import PUBLISHED, checked_samples

METHODS = ("permutation", "block", "linear")


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoSampleTest:
    """Result of a test whether two samples come from one law.

    Attributes:
        p_value: Chance of a statistic at least as large under one law.
        statistic: Unbiased squared MMD.
        method: ``permutation``, ``block`` or ``linear``.
        num_permutations: Permuted splits; 0 for the asymptotic methods.
        null_std: Standard deviation of the statistic under one law: over the permuted splits, or as the asymptotic method
            estimates it.
    """

    p_value: float
    statistic: float
    method: str
    num_permutations: int
    null_std: float

    def rejects(self, level: float = 0.05) -> bool:
        """Whether equal laws are rejected at this level."""
        return self.p_value <= level


def two_sample_test(
    x: Float[Tensor, "M h"],
    y: Float[Tensor, "N h"],
    kernel: Kernel | None = None,
    *,
    method: str = "permutation",
    num_permutations: int = 499,
    generator: torch.Generator | None = None,
    block_size: int | None = None,
) -> TwoSampleTest:
    """Test whether two samples come from one law.

    ``permutation`` holds its level exactly for any sizes. The unbiased squared MMD of all pairs is not normal under one
    law (it is a weighted sum of chi-squares), so no normal p-value is offered for it; ``block`` and ``linear`` average
    over independent parts, whose mean is, and are valid for many parts, less powerful, and need equal sizes and rows in
    random order.

    A kernel chosen by looking at the two samples apart breaks the level; one from both together (`median_gaussians` of all
    points) does not.

    Args:
        x: First sample.
        y: Second sample.
        kernel: As in `mmd2`.
        method: ``permutation``, ``block`` or ``linear``.
        num_permutations: Splits to draw; the smallest possible p-value is ``1 / (num_permutations + 1)``.
        generator: For the permutations; torch's default generator where left out.
        block_size: As in `mmd2`, for the matrix of all pairs, which is never held as a whole.

    Raises:
        InputError: If the samples do not go together, hold fewer than 2 points (4 for the asymptotic methods), or an
            option breaks its rule.

    Example:
        >>> x = torch.linspace(0, 1, 20)[:, None]
        >>> two_sample_test(x, x + 3, generator=torch.Generator().manual_seed(0)).p_value
        0.002
    """
    check_choice("method", method, METHODS)
    if method != "permutation":
        part = mmd2_blocks(x, y, kernel) if method == "block" else mmd2_linear(x, y, kernel)
        return TwoSampleTest(
            p_value=part.p_value,
            statistic=part.value,
            method=method,
            num_permutations=0,
            null_std=math.sqrt(part.variance),
        )
    check_int("num_permutations", num_permutations, at_least=19, way_out="fewer cannot reach a p-value of 0.05")
    x, y = checked_samples(x, y, at_least=2)
    pooled = torch.cat([x.detach(), y.detach()])
    member = torch.zeros(len(pooled), num_permutations + 1, dtype=pooled.dtype, device=pooled.device)
    member[: len(x), 0] = 1
    member[:, 1:] = random_members(len(pooled), len(x), num_permutations, generator).to(member)
    found = split_values(pooled, member, PUBLISHED if kernel is None else kernel, block_size=block_size)
    return TwoSampleTest(
        p_value=permutation_p_value(found),
        statistic=float(found[0]),
        method=method,
        num_permutations=num_permutations,
        null_std=float(found[1:].std()),
    )


def random_members(
    num_points: int, num_members: int, num_draws: int, generator: torch.Generator | None
) -> Float[Tensor, "N P"]:
    """Indicators of random subsets of ``num_members`` of ``num_points``, one a column."""
    device = "cpu" if generator is None else generator.device
    # The places of the largest of independent uniform numbers are a uniform subset.
    order = torch.rand(num_draws, num_points, generator=generator, device=device).topk(num_members, dim=1).indices
    member = torch.zeros(num_draws, num_points, device=device)
    return member.scatter_(1, order, 1.0).T


def split_values(
    pooled: Float[Tensor, "N h"], member: Float[Tensor, "N P"], kernel: Kernel, *, block_size: int | None = None
) -> Float[Tensor, " P"]:
    """Unbiased squared MMD between the members and the others, for each column of indicators; float64."""
    both, one, total = subset_sums(pooled, member, kernel, block_size=block_size)
    m = member.sum(dim=0, dtype=torch.float64)
    n = len(pooled) - m
    return both / (m * (m - 1)) + (total - 2 * one + both) / (n * (n - 1)) - 2 * (one - both) / (m * n)


@torch.no_grad()
def subset_sums(
    pooled: Float[Tensor, "N h"], member: Float[Tensor, "N P"], kernel: Kernel, *, block_size: int | None = None
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"], Float[Tensor, ""]]:
    """``a K a``, ``a K 1`` and ``1 K 1`` for each column ``a`` of indicators, over pairs of different points; float64.

    One pass over the matrix ``K`` of all pairs serves all columns, and no more than a block of it is held.
    """
    num = len(pooled)
    distance, product = uses(kernel)
    side = default_block(pooled.device) if block_size is None else check_int("block_size", block_size, at_least=1)
    inside = torch.zeros_like(member)
    sums = torch.zeros(num, dtype=torch.float64, device=pooled.device)
    for rows in cut(num, side):
        here = slice(*rows)
        for columns in cut(num, side):
            there = slice(*columns)
            same = rows == columns
            pairs = pairs_of(pooled[here], None if same else pooled[there], distance=distance, product=product)
            values = kernel.values(pairs)
            if same:
                values.fill_diagonal_(0)
            inside[here].addmm_(values, member[there])
            sums[here] += values.sum(dim=1).double()
    both = (member * inside).sum(dim=0, dtype=torch.float64)
    return both, sums @ member.double(), sums.sum()


def permutation_p_value(values: Float[Tensor, " P"]) -> float:
    """Share of splits whose value is at least the first one's, itself included; values that differ by rounding alone count
    as equal.

    Raises:
        InputError: If a value is not finite.
    """
    if not bool(torch.isfinite(values).all()):
        raise InputError(
            "the statistic must be finite, got NaN or infinity; a sample or its kernel values are not finite"
        )
    slack = 1e-6 * float(values.abs().max())
    return float((values >= values[0] - slack).double().mean())
