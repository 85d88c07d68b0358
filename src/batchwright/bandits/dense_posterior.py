"""Exact Gaussian-process posterior at any points, by one dense solve."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.bandits.candidate_posterior import factor_of
from batchwright.bandits.kernels import Kernel


@dataclass(frozen=True, kw_only=True, slots=True)
class DensePosterior:
    """The posterior of the function given noisy values.

    Attributes:
        kernel: Prior covariance.
        noise_variance: ``λ``.
        prior_mean: Of the process.
        points: ``(n, D)``.
        factor: ``(n, n)``: lower Cholesky factor of ``K + λI``.
        weights: ``(n,)``: ``(K + λI)⁻¹ (y − prior mean)``.
        counts: ``(n,)``: how many values each is the mean of.
    """

    kernel: Kernel
    noise_variance: float
    prior_mean: float
    points: Tensor
    factor: Tensor
    weights: Tensor
    counts: Tensor

    def at(self, points: Float[Tensor, "M D"]) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
        """Posterior mean and variance, without noise, at points."""
        cross = self.kernel(self.points, points)
        half = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        variance = (self.kernel.variance - half.square().sum(0)).clamp_min(0)
        return self.prior_mean + self.weights @ cross, variance

    def mean_at(self, points: Float[Tensor, "M D"]) -> Float[Tensor, " M"]:
        """Posterior mean alone, which costs a tenth."""
        mean: Tensor = self.prior_mean + self.weights @ self.kernel(self.points, points)
        return mean

    def covariance(self, points: Float[Tensor, "M D"]) -> Float[Tensor, "M M"]:
        """Posterior covariance of the function among points."""
        half = torch.linalg.solve_triangular(self.factor, self.kernel(self.points, points), upper=False)
        covariance: Tensor = self.kernel(points, points) - half.T @ half
        return covariance

    def largest_weight(self, points: Float[Tensor, "M D"]) -> Float[Tensor, " M"]:
        """Largest absolute weight of one value in the mean at each point: what a change of 1 in one value can move it by."""
        weights = torch.cholesky_solve(self.kernel(self.points, points), self.factor)
        return (weights.abs() / self.counts[:, None]).amax(0)


def dense_posterior(
    points: Float[Tensor, "n D"],
    values: Float[Tensor, " n"],
    kernel: Kernel,
    noise_variance: float,
    *,
    prior_mean: float = 0.0,
    counts: Float[Tensor, " n"] | None = None,
) -> DensePosterior:
    """Condition a Gaussian process on values, each the mean of ``counts`` with independent noise of variance ``noise_variance``."""
    counts = torch.ones_like(values) if counts is None else counts
    factor = factor_of(kernel, points, noise_variance / counts)
    weights = torch.cholesky_solve((values - prior_mean)[:, None], factor)[:, 0]
    return DensePosterior(
        kernel=kernel,
        noise_variance=noise_variance,
        prior_mean=prior_mean,
        points=points,
        factor=factor,
        weights=weights,
        counts=counts,
    )


def merged(
    points: Float[Tensor, "n D"],
    values: Float[Tensor, " n"],
) -> tuple[Float[Tensor, "m D"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Equal points once, with the mean of their values and their number: the posterior is the same, and the solve smaller."""
    distinct, place, counts = torch.unique(points, dim=0, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(distinct), dtype=values.dtype, device=values.device).scatter_add_(0, place, values)
    return distinct, sums / counts, counts.to(values.dtype)
