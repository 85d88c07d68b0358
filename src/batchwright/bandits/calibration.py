"""Whether a Gaussian process agrees with its data: each value against what the others predict of it.

Source: Rasmussen & Williams (2006), eqs. (5.10)–(5.12) (leave-one-out residuals from one inverse); Bachoc (2013), on what they say of a
misspecified covariance.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.bandits.candidate_posterior import factor_of
from batchwright.bandits.kernels import Kernel
from batchwright.core.checks import check_number

FEWEST = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Leave-one-out residuals over their predicted standard deviations, summed up.

    Attributes:
        num_values: How many.
        mean_square: Of the residuals; 1 is expected. Above: the model is too sure of itself.
        low: Lower end of where ``mean_square`` lies under the model with probability ``1 − level``.
        high: Upper end.
        largest: Largest absolute residual.
        largest_allowed: Its bound under the model, with a union over the values.
        coverage: Share of the values inside their own 95 % predictive interval.
        verdict: ``fits``, ``too sure``, ``too wide``, ``outliers`` or ``too few values``.
    """

    num_values: int
    mean_square: float
    low: float
    high: float
    largest: float
    largest_allowed: float
    coverage: float
    verdict: str

    @property
    def misspecified(self) -> bool:
        """Whether the bounds that are built on the model should not be believed as they stand."""
        return self.verdict in ("too sure", "outliers")

    @property
    def words(self) -> str:
        """The verdict in a sentence, with its numbers."""
        if self.verdict == "too few values":
            return f"too few values ({self.num_values}) to tell whether the model fits"
        tail = (
            f"mean square {self.mean_square:.2f} of the leave-one-out residuals, expected {self.low:.2f} to {self.high:.2f}; "
            f"largest {self.largest:.1f}, expected below {self.largest_allowed:.1f}"
        )
        heads = {
            "fits": "the model agrees with its data",
            "too sure": "the model is too sure of itself: the bounds are too narrow",
            "too wide": "the model is less sure than it could be: the bounds are wide",
            "outliers": "single values contradict the model: outliers or a jump; see corruption=",
        }
        return f"{heads[self.verdict]} ({tail})"


def leave_one_out(
    points: Float[Tensor, "n D"],
    values: Float[Tensor, " n"],
    kernel: Kernel,
    noise_variance: float,
    *,
    prior_mean: float = 0.0,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Mean and variance, with noise, that the other values predict for each value.

    Returns:
        ``y − (K⁻¹y)_i / (K⁻¹)_ii`` and ``1/(K⁻¹)_ii``, with ``K`` including the noise.
    """
    inverse = torch.cholesky_inverse(factor_of(kernel, points, noise_variance))
    variance = 1 / inverse.diagonal()
    return values - (inverse @ (values - prior_mean)) * variance, variance


def calibration(
    points: Float[Tensor, "n D"],
    values: Float[Tensor, " n"],
    kernel: Kernel,
    noise_variance: float | Tensor,
    *,
    prior_mean: float = 0.0,
    level: float = 0.01,
) -> Calibration:
    """Test the residuals against what the model expects of them.

    Their covariance under the model is known, so the sum of their squares is a weighted sum of ``χ²``; it is compared with the
    ``χ²`` of the same mean and variance (Satterthwaite). Parameters fitted to the same values make the test milder: they pull it to 1.

    Args:
        points: Where the values were taken.
        values: At least five for a verdict.
        kernel: Of the model.
        noise_variance: Of each value, one or ``(n,)``.
        prior_mean: Of the process.
        level: Probability of a false alarm of each of the two tests.
    """
    from scipy.special import gammaincinv, ndtri

    check_number("level", level, above=0.0, below=1.0)
    number = len(values)
    if number < FEWEST:
        return Calibration(
            num_values=number,
            mean_square=math.nan,
            low=0.0,
            high=math.inf,
            largest=math.nan,
            largest_allowed=math.inf,
            coverage=math.nan,
            verdict="too few values",
        )
    inverse = torch.cholesky_inverse(factor_of(kernel, points, noise_variance))
    root = inverse.diagonal().sqrt()
    residuals = (inverse @ (values - prior_mean)) / root
    correlation = inverse / torch.outer(root, root)
    # Mean n and variance 2‖R‖² of the sum of squares: n/‖R‖² times χ² with n²/‖R‖² degrees of freedom.
    dof = number**2 / float(correlation.square().sum())
    low, high = (float(2 * gammaincinv(dof / 2, p) / dof) for p in (level / 2, 1 - level / 2))
    mean_square, largest = float(residuals.square().mean()), float(residuals.abs().max())
    allowed = float(-ndtri(level / (2 * number)))
    verdict = "fits"
    if largest > allowed:
        verdict = "outliers"
    if mean_square > high:
        verdict = "too sure"
    if mean_square < low:
        verdict = "too wide"
    return Calibration(
        num_values=number,
        mean_square=mean_square,
        low=low,
        high=high,
        largest=largest,
        largest_allowed=allowed,
        coverage=float((residuals.abs() <= 1.959964).double().mean()),
        verdict=verdict,
    )
