"""Log marginal likelihood of a Gaussian process with priors on its parameters, and its exact gradient.

The parameters are logarithms: of the length scales, of the variance of the function and of the variance of the noise. The constant mean
is profiled out, ``m = 1ᵀK⁻¹y / 1ᵀK⁻¹1``, so it adds nothing to the gradient.

Sources: Rasmussen & Williams (2006), eqs. (5.8) and (5.9); the priors are those of Hvarfner, Hellsten, Nardi (2024), arXiv:2402.02229.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchwright.bandits.kernels import Kernel, profile

Array = NDArray[np.float64]
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogNormal:
    """Prior of a positive number: its logarithm is normal."""

    location: float
    scale: float

    def log_density(self, log_value: float) -> float:
        """Of the number itself, so with the derivative of the logarithm."""
        z = (log_value - self.location) / self.scale
        return -0.5 * z * z - log_value - math.log(self.scale) - 0.5 * LOG_2PI

    def slope(self, log_value: float) -> float:
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

    def with_gradient(self, parameters: Array) -> tuple[float, Array]:
        """The objective and its gradient at one set of parameters ``(P,)``.

        In NumPy and LAPACK: with some 64 values a call of torch takes as long as the arithmetic in it.
        """
        from scipy.linalg.lapack import dpotrf, dpotri

        dim, values = self.points.shape[1], self.values.numpy()
        gaps = self._sq_gaps().numpy().reshape(dim, -1)
        weights = np.exp(-2 * parameters[:dim])
        free = self.prior.variance is not None
        variance = math.exp(parameters[dim + 1]) if free else 1.0
        noise = math.exp(parameters[dim])
        correlation, slopes = _profile_and_slope(self.name, self.nu, (weights @ gaps).reshape(len(values), -1))
        matrix = variance * correlation
        matrix.flat[:: len(values) + 1] += noise
        factor, failed = dpotrf(matrix, lower=1, overwrite_a=0)
        if failed:
            return -math.inf, np.zeros_like(parameters)
        inverse, _ = dpotri(factor, lower=1)
        # LAPACK fills one triangle, and the other is zero since the factorisation cleaned it.
        inverse = inverse + inverse.T
        inverse.flat[:: len(values) + 1] *= 0.5
        total = inverse.sum(1)
        mean = float(total @ values) / float(total.sum())
        weighted = inverse @ (values - mean)
        value = -0.5 * float((values - mean) @ weighted) - float(np.log(factor.diagonal()).sum())
        value += -0.5 * len(values) * LOG_2PI + self._log_prior_of(parameters)
        # ½ tr((αᵀα − K⁻¹) ∂K): one matrix for all parameters.
        outer = 0.5 * (np.outer(weighted, weighted) - inverse)
        gradient = np.empty_like(parameters)
        gradient[:dim] = variance * weights * (gaps @ (slopes * outer).ravel())
        gradient[dim] = noise * outer.trace()
        if free:
            gradient[dim + 1] = variance * float((outer * correlation).sum())
        for index, prior in enumerate(self._priors()):
            gradient[index] += prior.slope(float(parameters[index]))
        return value, gradient

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

    def _priors(self) -> list[LogNormal]:
        """One a parameter."""
        found = [self.prior.lengthscale] * self.points.shape[1] + [self.prior.noise_variance]
        return found if self.prior.variance is None else [*found, self.prior.variance]

    def _log_prior_of(self, parameters: Array) -> float:
        pairs = zip(self._priors(), parameters.tolist(), strict=True)
        return sum(prior.log_density(value) for prior, value in pairs)

    def _log_prior(self, parameters: Tensor) -> Tensor:
        return torch.tensor([self._log_prior_of(row) for row in parameters.numpy()], dtype=torch.float64)


def _profile_and_slope(name: str, nu: float, sq: Array) -> tuple[Array, Array]:
    """`kernels.profile` and `kernels.slope` with one exponential."""
    if name == "se":
        found: Array = np.exp(-0.5 * sq)
        return found, found
    root = np.sqrt(2 * nu * np.maximum(sq, 0))
    decay = np.exp(-root)
    if nu == 0.5:
        return decay, np.divide(decay, root, out=np.zeros_like(root), where=root > 0)
    if nu == 1.5:
        return (1 + root) * decay, 3 * decay
    return (1 + root + root * root / 3) * decay, (5 / 3) * (1 + root) * decay
