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
    """

    kernel: Kernel
    noise_variance: float
    prior_mean: float
    points: Tensor
    factor: Tensor
    weights: Tensor

    def at(self, points: Float[Tensor, "M D"]) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
        """Posterior mean and variance, without noise, at points."""
        cross = self.kernel(self.points, points)
        half = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        variance = (self.kernel.variance - half.square().sum(0)).clamp_min(0)
        return self.prior_mean + self.weights @ cross, variance

    def covariance(self, points: Float[Tensor, "M D"]) -> Float[Tensor, "M M"]:
        """Posterior covariance of the function among points."""
        half = torch.linalg.solve_triangular(self.factor, self.kernel(self.points, points), upper=False)
        covariance: Tensor = self.kernel(points, points) - half.T @ half
        return covariance

    def largest_weight(self, points: Float[Tensor, "M D"]) -> Float[Tensor, " M"]:
        """Largest absolute weight of one value in the mean at each point."""
        return torch.cholesky_solve(self.kernel(self.points, points), self.factor).abs().amax(0)


def dense_posterior(
    points: Float[Tensor, "n D"],
    values: Float[Tensor, " n"],
    kernel: Kernel,
    noise_variance: float,
    *,
    prior_mean: float = 0.0,
) -> DensePosterior:
    """Condition a Gaussian process on values with independent noise of variance ``noise_variance``."""
    factor = factor_of(kernel, points, noise_variance)
    weights = torch.cholesky_solve((values - prior_mean)[:, None], factor)[:, 0]
    return DensePosterior(
        kernel=kernel,
        noise_variance=noise_variance,
        prior_mean=prior_mean,
        points=points,
        factor=factor,
        weights=weights,
    )
