"""Log marginal likelihood of a Gaussian process with priors on its parameters, and its exact gradient.

The parameters are logarithms: of the length scales, of the variance of the function and of the variance of the noise. The constant mean
is profiled out, ``m = 1ᵀK⁻¹y / 1ᵀK⁻¹1``, so it adds nothing to the gradient.

Sources: Rasmussen & Williams (2006), eqs. (5.8) and (5.9); the priors are those of Hvarfner, Hellsten, Nardi (2024), arXiv:2402.02229.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.bandits.kernels import Kernel, profile, slope

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogNormal:
    """Prior of a positive number: its logarithm is normal."""

    location: float
    scale: float

    def log_density(self, log_value: Tensor) -> Tensor:
        """Of the number itself, so with the derivative of the logarithm."""
        z = (log_value - self.location) / self.scale
        return -0.5 * z.square() - log_value - math.log(self.scale) - 0.5 * LOG_2PI

    def slope(self, log_value: Tensor) -> Tensor:
        """Derivative of `log_density` in the logarithm."""
        return -(log_value - self.location) / self.scale**2 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Prior:
    """Priors for points on the unit cube and values of variance 1.

    Attributes:
        lengthscale: Of every length scale.
        noise_variance: Of ``λ``.
        variance: Of ``k(x, x)``; None fixes it at 1, as BoTorch's `SingleTaskGP` does.
        smallest_noise: Lower bound of ``λ``.
    """

    lengthscale: LogNormal
    noise_variance: LogNormal = LogNormal(location=-4.0, scale=1.0)
    variance: LogNormal | None = LogNormal(location=0.0, scale=0.5)
    smallest_noise: float = 1e-6


def default_prior(dim: int) -> Prior:
    """Length scales that grow with the root of the dimension: ``LogNormal(√2 + ½ log D, √3)``."""
    return Prior(lengthscale=LogNormal(location=math.sqrt(2) + 0.5 * math.log(dim), scale=math.sqrt(3)))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Log marginal likelihood plus log prior of values at points; higher is better.

    Attributes:
        points: ``(n, D)``, float64.
        values: ``(n,)``, standardised.
        name: Of the kernel.
        nu: Its smoothness.
        prior: Of the parameters.
    """

    points: Tensor
    values: Tensor
    name: str
    nu: float
    prior: Prior

    @property
    def num_parameters(self) -> int:
        """Length scales, noise, and the variance where it is free."""
        return self.points.shape[1] + 1 + (self.prior.variance is not None)

    def __call__(self, parameters: Tensor) -> Tensor:
        """The objective for each row of parameters ``(S, P)``, all in one batched Cholesky; minus infinity where there is none."""
        dim = self.points.shape[1]
        gaps = self._sq_gaps()
        sq = torch.einsum("sd,dij->sij", torch.exp(-2 * parameters[:, :dim]), gaps)
        matrix = self._variance(parameters)[:, None, None] * profile(self.name, self.nu, sq)
        matrix.diagonal(dim1=1, dim2=2).add_(torch.exp(parameters[:, dim])[:, None])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        ones = torch.ones_like(self.values)
        both = torch.stack([self.values, ones], 1).expand(len(parameters), -1, -1)
        half = torch.linalg.solve_triangular(factor, both, upper=False)
        mean = (half[:, :, 0] * half[:, :, 1]).sum(1) / half[:, :, 1].square().sum(1)
        rest = half[:, :, 0] - mean[:, None] * half[:, :, 1]
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        found = -0.5 * rest.square().sum(1) - log_det - 0.5 * len(self.values) * LOG_2PI + self._log_prior(parameters)
        return torch.where((failed == 0) & torch.isfinite(found), found, torch.full_like(found, -math.inf))

    def with_gradient(self, parameters: Tensor) -> tuple[float, Tensor]:
        """The objective and its gradient at one set of parameters ``(P,)``."""
        dim, number = self.points.shape[1], len(self.values)
        weights = torch.exp(-2 * parameters[:dim])
        gaps = self._sq_gaps()
        sq = torch.tensordot(weights, gaps, dims=1)
        variance = float(self._variance(parameters[None])[0])
        noise = math.exp(float(parameters[dim]))
        covariance = variance * profile(self.name, self.nu, sq)
        matrix = covariance.clone()
        matrix.diagonal().add_(noise)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed):
            return -math.inf, torch.zeros_like(parameters)
        inverse = torch.cholesky_inverse(factor)
        total = inverse.sum(1)
        mean = float(total @ self.values) / float(total.sum())
        weighted = inverse @ (self.values - mean)
        value = -0.5 * float((self.values - mean) @ weighted) - float(factor.diagonal().log().sum())
        value += -0.5 * number * LOG_2PI + float(self._log_prior(parameters[None])[0])
        # ½ tr((αᵀα − K⁻¹) ∂K): one matrix for all parameters.
        outer = 0.5 * (torch.outer(weighted, weighted) - inverse)
        gradient = torch.empty_like(parameters)
        curved = (variance * slope(self.name, self.nu, sq)).mul_(outer)
        gradient[:dim] = weights * (gaps.flatten(1) @ curved.flatten())
        gradient[dim] = noise * outer.trace()
        if self.prior.variance is not None:
            gradient[dim + 1] = (outer * covariance).sum()
        return value, gradient + self._prior_slope(parameters)

    def kernel(self, parameters: Tensor, *, scale: float = 1.0) -> Kernel:
        """The kernel of parameters ``(P,)``, its variance times ``scale``."""
        dim = self.points.shape[1]
        return Kernel(
            name=self.name,
            nu=self.nu,
            lengthscales=tuple(torch.exp(parameters[:dim]).tolist()),
            variance=float(self._variance(parameters[None])[0]) * scale,
        )

    def mean(self, parameters: Tensor) -> float:
        """The constant mean that maximises the likelihood at parameters ``(P,)``."""
        matrix = self.kernel(parameters)(self.points, self.points)
        matrix.diagonal().add_(float(torch.exp(parameters[self.points.shape[1]])))
        total = torch.linalg.solve(matrix, torch.ones_like(self.values))
        return float(total @ self.values) / float(total.sum())

    def _sq_gaps(self) -> Tensor:
        """``(D, n, n)``; made anew for each call where it would be large, and kept otherwise."""
        if "gaps" not in self.__dict__:
            columns = self.points.T
            self.__dict__["gaps"] = (columns[:, :, None] - columns[:, None, :]).square_()
        found: Tensor = self.__dict__["gaps"]
        return found

    def _variance(self, parameters: Tensor) -> Tensor:
        dim = self.points.shape[1]
        if self.prior.variance is None:
            return torch.ones(len(parameters), dtype=parameters.dtype)
        return torch.exp(parameters[:, dim + 1])

    def _log_prior(self, parameters: Tensor) -> Tensor:
        dim = self.points.shape[1]
        total = self.prior.lengthscale.log_density(parameters[:, :dim]).sum(1)
        total = total + self.prior.noise_variance.log_density(parameters[:, dim])
        if self.prior.variance is not None:
            total = total + self.prior.variance.log_density(parameters[:, dim + 1])
        return total

    def _prior_slope(self, parameters: Tensor) -> Tensor:
        dim = self.points.shape[1]
        found = self.prior.lengthscale.slope(parameters)
        found[dim] = self.prior.noise_variance.slope(parameters[dim])
        if self.prior.variance is not None:
            found[dim + 1] = self.prior.variance.slope(parameters[dim + 1])
        return found
