"""How a batch is cut into ghosts, and how the statistics of ghosts become running ones.

Source: Hoffer et al. (2017), arXiv:1705.08741, algorithm 1. Deviation: the weights of its running update as printed do not sum to
one; here they are those of one BatchNorm update after another, which do.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Ghosts:
    """Ghosts of a batch: consecutive examples, in order.

    Attributes:
        num_equal: Ghosts of ``size`` examples, which come first.
        size: Examples in each of them.
        last: Examples in the ghost after them; 0 where there is none.
    """

    num_equal: int
    size: int
    last: int

    @classmethod
    def of_batch(cls, batch_size: int, ghost_size: int, values_per_example: int) -> "Ghosts":
        """Cut a batch into ghosts of ``ghost_size`` examples.

        A batch smaller than ``ghost_size`` is one ghost. The ``batch_size % ghost_size`` examples that are left are the last ghost;
        where that is a single value a channel, which has no variance, they join the ghost before it.

        Args:
            batch_size: Examples.
            ghost_size: Examples in a ghost.
            values_per_example: Values of one channel in one example: ``H * W`` of an image.

        Raises:
            InputError: If a ghost has fewer than two values a channel.
        """
        size = min(ghost_size, batch_size)
        if size * values_per_example < 2:
            raise InputError(
                f"x must give each ghost at least 2 values a channel in training, got batch size {batch_size} with "
                f"{values_per_example} value an example and ghost_size={ghost_size}; take larger ghosts or batches, or call eval()"
            )
        # Not divmod, which a compiler does not trace for a batch size that varies.
        num_equal, last = batch_size // size, batch_size % size
        if last * values_per_example == 1:
            num_equal, last = num_equal - 1, size + 1
        return cls(num_equal=num_equal, size=size, last=last)

    @property
    def num(self) -> int:
        """Ghosts in all."""
        return self.num_equal + (self.last > 0)

    def counts(self, values_per_example: int) -> list[int]:
        """Values of one channel in each ghost."""
        sizes = [self.size] * self.num_equal + [self.last] * (self.last > 0)
        return [size * values_per_example for size in sizes]

    def inverse_counts(
        self, values_per_example: int, dtype: torch.dtype, device: torch.device | None = None
    ) -> Float[Tensor, "#K 1"]:
        """One over the values of one channel in each ghost; one number where all are equal."""
        return _inverse_counts(self, values_per_example, dtype, device)


@lru_cache(maxsize=64)
def _inverse_counts(
    ghosts: Ghosts, values_per_example: int, dtype: torch.dtype, device: torch.device | None
) -> Float[Tensor, "#K 1"]:
    counts = ghosts.counts(values_per_example)
    counts = counts if ghosts.last else counts[:1]
    return torch.tensor([[1.0 / count] for count in counts], dtype=dtype, device=device)


def sequential_weights(num: int, momentum: float) -> list[float]:
    """Weights of ``num`` ghosts in ``num`` updates of running statistics one after another; they sum to ``1 - (1 - momentum)**num``.

    Example:
        >>> sequential_weights(2, 0.5)
        [0.25, 0.5]
    """
    return [momentum * (1 - momentum) ** (num - 1 - place) for place in range(num)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """How the statistics of ghosts make those of a batch.

    Attributes:
        mean: Share of each ghost in the mean; they sum to one.
        variance: Factor of each ghost's biased variance in the unbiased variance of the batch.
        between: Factor of the mean of ``(m_l - m)**2``; 0 where the variance between ghosts is left out.
        total: What the weights summed to, before they were divided by it.
    """

    mean: Float[Tensor, " K"]
    variance: Float[Tensor, " K"]
    between: float
    total: float


def shares(
    counts: list[int], weights: list[float], *, between_ghosts: bool, dtype: torch.dtype, device: torch.device
) -> Shares:
    """The shares of ghosts with these counts of values a channel and these weights, not negative; see `combine`."""
    total = math.fsum(weights)
    parts = [weight / total for weight in weights]
    if between_ghosts:
        between = 1 / (1 - math.fsum(part**2 / count for part, count in zip(parts, counts, strict=True)))
        factors = [part * between for part in parts]
    else:
        between = 0.0
        factors = [part * count / (count - 1) for part, count in zip(parts, counts, strict=True)]
    mean, variance = torch.tensor([parts, factors], dtype=dtype, device=device)
    return Shares(mean=mean, variance=variance, between=between, total=total)


def combine(
    means: Float[Tensor, "K C"], variances: Float[Tensor, "K C"], shares: Shares
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Mean and unbiased variance of a batch from those of its ghosts.

    With shares ``p_l`` and counts ``n_l``, without the variance between ghosts it is the mean of their unbiased variances,
    ``sum_l p_l n_l / (n_l - 1) v_l``. With it, it is the law of total variance, ``sum_l p_l (v_l + (m_l - m)**2)``, over
    ``1 - sum_l p_l**2 / n_l``, which makes it unbiased where values are independent; with weights as the counts that is the unbiased
    variance of the whole batch.

    Args:
        means: Mean of each ghost.
        variances: Biased variance of each ghost, as it normalises.
        shares: From `shares`.
    """
    # Sums, not products of matrices, which autocast would take in half precision.
    mean = (shares.mean[:, None] * means).sum(dim=0)
    variance = (shares.variance[:, None] * variances).sum(dim=0)
    if shares.between:
        deviations = (shares.mean[:, None] * (means - mean).square()).sum(dim=0)
        variance = variance + shares.between * deviations
    return mean, variance


def moments(x: Float[Tensor, "B C *S"], ghosts: Ghosts) -> tuple[Float[Tensor, "K C"], Float[Tensor, "K C"]]:
    """Mean and biased variance of each ghost and channel, at least in float32; differentiable."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    head = ghosts.num_equal * ghosts.size
    parts = []
    if ghosts.num_equal:
        grouped = x[:head].unflatten(0, (ghosts.num_equal, ghosts.size))
        parts.append(torch.var_mean(grouped, dim=(1, *range(3, grouped.ndim)), correction=0))
    if ghosts.last:
        parts.append(torch.var_mean(x[head:].unsqueeze(0), dim=(1, *range(3, x.ndim + 1)), correction=0))
    variances, means = (torch.cat(both) for both in zip(*parts, strict=True))
    return means, variances


def ghost_sums(values: Float[Tensor, "B C"], ghosts: Ghosts) -> Float[Tensor, "K C"]:
    """Sum over the examples of each ghost."""
    if not ghosts.last:
        return values.view(ghosts.num_equal, ghosts.size, -1).sum(dim=1)
    head = ghosts.num_equal * ghosts.size
    sums = values[:head].view(ghosts.num_equal, ghosts.size, -1).sum(dim=1)
    return torch.cat([sums, values[head:].sum(dim=0, keepdim=True)])


def per_example(values: Float[Tensor, "K C"], ghosts: Ghosts) -> Float[Tensor, "B C"]:
    """The value of its ghost for each example."""
    head = values[: ghosts.num_equal].repeat_interleave(ghosts.size, dim=0)
    return torch.cat([head, values[ghosts.num_equal :].expand(ghosts.last, -1)]) if ghosts.last else head
