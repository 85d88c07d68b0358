"""A quadratic loss with gradient noise of known covariance: every quantity that is estimated elsewhere has a closed form.

Source: McCandlish et al. (2018), arXiv:1812.06162, section 2.2, for the noise scale of a quadratic; the moments of SGD on it
are those of Schaul et al. (2013), arXiv:1206.1106, section 4.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class SgdMoments:
    """Moments of SGD on a quadratic after each step, the start first.

    Attributes:
        mean_offset: Mean of the parameters less the optimum, float64.
        excess_loss: Mean excess loss, float64.
    """

    mean_offset: Float[Tensor, "T D"]
    excess_loss: Float[Tensor, " T"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyQuadratic:
    """Loss ``l_i(p) = (p - p*)' H (p - p*) / 2 + x_i' (p - p*)`` of example ``i`` at the parameters ``p``.

    The gradient of example ``i`` is ``H (p - p*) + x_i``. The ``x_i`` have population mean zero and population covariance
    ``diag(variance)``, so the closed forms below hold for this finite data set and not only for the law it was drawn from.

    Attributes:
        curvature: Diagonal of the Hessian ``H``, float64.
        variance: Diagonal of the gradient covariance over the examples (divided by ``N``), float64.
        optimum: The minimiser ``p*``, float64; the population loss there is 0.
        noise: The ``x_i``, one an example, float64.
    """

    curvature: Float[Tensor, " D"]
    variance: Float[Tensor, " D"]
    optimum: Float[Tensor, " D"]
    noise: Float[Tensor, "N D"]

    @property
    def trace(self) -> float:
        """Trace of the gradient covariance; the same at every point."""
        return float(self.variance.sum())

    @property
    def sharpness(self) -> float:
        """Largest eigenvalue of the Hessian; the same at every point."""
        return float(self.curvature.max())

    def excess_loss(self, parameters: Float[Tensor, " D"]) -> float:
        """Population loss at ``parameters``, which is the excess over the optimum."""
        offset = parameters.double() - self.optimum
        return float(0.5 * (self.curvature * offset.square()).sum())

    def gradient(self, parameters: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Population gradient at ``parameters``, float64."""
        return self.curvature * (parameters.double() - self.optimum)

    def noise_scale(self, parameters: Float[Tensor, " D"]) -> float:
        """Noise scale ``trace / |gradient|^2`` at ``parameters``, in examples; ``inf`` at the optimum."""
        sq_norm = float(self.gradient(parameters).square().sum())
        return self.trace / sq_norm if sq_norm > 0 else float("inf")

    def expected_excess_loss(
        self, parameters: Float[Tensor, " D"], *, lr: float, batch_size: int, num_steps: int
    ) -> float:
        """Mean excess loss after SGD without momentum at a constant ``lr`` from ``parameters``.

        Exact for examples drawn with replacement; an epoch without replacement is a little less noisy.

        Args:
            parameters: Where SGD starts.
            lr: Learning rate; the mean diverges from ``2 / sharpness`` on.
            batch_size: Examples averaged in one step.
            num_steps: Steps taken.

        Raises:
            InputError: If an argument is out of its range.
        """
        check_number("lr", lr, above=0.0)
        check_int("batch_size", batch_size, at_least=1)
        check_int("num_steps", num_steps, at_least=0)
        # E[d'^2] = shrink E[d^2] + lr^2 variance / B for each coordinate's offset d: a geometric series.
        shrink = (1.0 - lr * self.curvature).square()
        kept = shrink.pow(num_steps)
        series = torch.where(shrink == 1.0, torch.full_like(kept, float(num_steps)), (1.0 - kept) / (1.0 - shrink))
        second_moment = (
            kept * (parameters.double() - self.optimum).square() + lr**2 * self.variance / batch_size * series
        )
        return float(0.5 * (self.curvature * second_moment).sum())

    def sgd_moments(
        self,
        parameters: Float[Tensor, " D"],
        *,
        lr: float,
        momentum: float,
        batch_size: int,
        num_steps: int,
        velocity: Float[Tensor, " D"] | None = None,
    ) -> SgdMoments:
        """Mean parameters and mean excess loss after each step of SGD with heavy-ball momentum, as `torch.optim.SGD` takes it.

        With offset ``d`` and velocity ``v`` of a coordinate a step is ``v' = momentum v + h d + x``, ``d' = d - lr v'``: linear in
        ``(d, v)`` with independent noise ``x`` of variance ``variance / B``, so means and second moments obey exact recursions.
        Exact for examples drawn with replacement.

        Args:
            parameters: Where SGD starts.
            lr: Learning rate.
            momentum: Of the velocity, without dampening.
            batch_size: Examples averaged in one step.
            num_steps: Steps taken.
            velocity: Momentum buffer at the start; zero where left out.

        Raises:
            InputError: If an argument is out of its range.
        """
        check_number("lr", lr, above=0.0)
        check_number("momentum", momentum, at_least=0.0, below=1.0)
        check_int("batch_size", batch_size, at_least=1)
        check_int("num_steps", num_steps, at_least=0)
        offset = parameters.double() - self.optimum
        speed = torch.zeros_like(offset) if velocity is None else velocity.double()
        dd, dv, vv = offset.square(), offset * speed, speed.square()
        h, m, noise = self.curvature, momentum, self.variance / batch_size
        means, losses = [offset], [0.5 * (h * dd).sum()]
        for _ in range(num_steps):
            speed = m * speed + h * offset
            offset = offset - lr * speed
            dv, vv = m * dv + h * dd, m * m * vv + 2 * m * h * dv + h * h * dd + noise
            # Now dv is the mean of d v' and vv of v'^2; d is still the old one.
            dd, dv = dd - 2 * lr * dv + lr * lr * vv, dv - lr * vv
            means.append(offset)
            losses.append(0.5 * (h * dd).sum())
        return SgdMoments(mean_offset=torch.stack(means), excess_loss=torch.stack(losses))


def noisy_quadratic_data(
    *,
    num_examples: int,
    curvature: Float[Tensor, " D"],
    variance: Float[Tensor, " D"],
    optimum: Float[Tensor, " D"],
    generator: torch.Generator,
) -> NoisyQuadratic:
    """Draw the ``x_i`` of a noisy quadratic and give them exactly the wanted mean and covariance.

    Args:
        num_examples: Examples ``N``, more than ``D``.
        curvature: Diagonal of the Hessian, each above 0.
        variance: Diagonal of the population covariance of the gradients, each at least 0.
        optimum: The minimiser.
        generator: Source of the Gaussian draws.

    Returns:
        The problem; mean and covariance of its noise are exact to the rounding of float64.

    Raises:
        InputError: If there are too few examples, or a curvature or variance is out of its range.

    Example:
        >>> problem = noisy_quadratic_data(num_examples=100, curvature=torch.tensor([2.0]), variance=torch.tensor([8.0]),
        ...                                optimum=torch.zeros(1), generator=torch.Generator().manual_seed(0))
        >>> problem.noise_scale(torch.ones(1))
        2.0
    """
    num_dimensions = len(curvature)
    check_int(
        "num_examples", num_examples, at_least=num_dimensions + 1, way_out="the covariance needs more than D of them"
    )
    if not bool(torch.isfinite(curvature).all() and (curvature > 0).all()):
        raise InputError(f"curvature must be finite and above 0, got a smallest value of {float(curvature.min()):g}")
    if not bool(torch.isfinite(variance).all() and (variance >= 0).all()):
        raise InputError(f"variance must be finite and at least 0, got a smallest value of {float(variance.min()):g}")
    draws = torch.randn(num_examples, num_dimensions, generator=generator, dtype=torch.float64)
    draws = draws - draws.mean(dim=0)
    # With C = L L' the covariance of the draws, the rows L^-1 x have covariance I.
    factor = torch.linalg.cholesky(draws.T @ draws / num_examples)
    white = torch.linalg.solve_triangular(factor, draws.T, upper=False).T
    return NoisyQuadratic(
        curvature=curvature.double(),
        variance=variance.double(),
        optimum=optimum.double(),
        noise=(white * variance.double().sqrt()).contiguous(),
    )
