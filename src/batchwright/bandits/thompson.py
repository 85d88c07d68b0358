"""Thompson sampling: each point of a batch is the maximum of its own draw from the posterior.

Sources: Kandasamy, Krishnamurthy, Schneider, Póczos (2018), arXiv:1705.09236 (in parallel); Wilson et al. (2020), arXiv:2002.09309
(a draw of the posterior as a draw of the prior that is corrected at the data).
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.bandits.bandit import Bandit
from batchwright.bandits.candidate_posterior import CandidatePosterior
from batchwright.bandits.dense_posterior import dense_posterior
from batchwright.bandits.kernels import Kernel

# Part of the kernel's variance that the partial factor of the prior may leave out.
TOLERANCE = 1e-8


class Thompson(Bandit):
    """The maxima of as many draws from the posterior."""

    name: ClassVar[str] = "thompson"

    def choose(self, posterior: CandidatePosterior, count: int) -> Tensor:
        """The maximum of each of ``count`` draws."""
        force, noise = self.evidence.model_after(self.num_rounds), self.evidence.noise_after(self.num_rounds)
        points, values, counts = self.evidence.data()
        draws = posterior_draws(
            self.survivors.pool.encoded, points, values, counts, force.kernel, noise, force.mean, count, self.generator
        )
        found = draws.masked_fill(self.survivors.excluded, -math.inf).argmax(1)
        for index in found.tolist():
            posterior.add(index)
        return found


def prior_factor(points: Float[Tensor, "N D"], kernel: Kernel) -> Float[Tensor, "r N"]:
    """Rows whose products are the prior covariance to within 1e-8 of its variance: a partial pivoted Cholesky."""
    posterior = CandidatePosterior(points, kernel, 0.0)
    chosen = posterior.select(len(points), stop_below=TOLERANCE * kernel.variance)
    return posterior.rows[: len(chosen)]


def posterior_draws(
    candidates: Float[Tensor, "N D"],
    points: Float[Tensor, "n D"],
    values: Float[Tensor, " n"],
    counts: Float[Tensor, " n"],
    kernel: Kernel,
    noise_variance: float,
    mean: float,
    number: int,
    generator: torch.Generator,
) -> Float[Tensor, "S N"]:
    """Draws of the function at the candidates, given values that are each the mean of ``counts``."""
    both = torch.cat([candidates, points])
    factor = prior_factor(both, kernel)
    prior = torch.randn(number, len(factor), generator=generator, dtype=torch.float64).to(both.device) @ factor
    if not len(points):
        found: Tensor = mean + prior
        return found
    posterior = dense_posterior(points, values, kernel, noise_variance, prior_mean=mean, counts=counts)
    noise = torch.randn(number, len(points), generator=generator, dtype=torch.float64).to(both.device)
    rest = values - mean - prior[:, len(candidates) :] - noise * (noise_variance / counts).sqrt()
    weights = torch.cholesky_solve(rest.T, posterior.factor)
    draws: Tensor = mean + prior[:, : len(candidates)] + weights.T @ kernel(points, candidates)
    return draws
