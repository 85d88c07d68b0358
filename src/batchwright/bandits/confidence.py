"""How wide a confidence interval is: ``√β`` posterior standard deviations.

Sources: Li & Scarlett (2022), arXiv:2110.07788 (points chosen without looking at their own noise); Chowdhury & Gopalan (2017),
arXiv:1704.00445, theorem 2 (points chosen one after another); Bogunovic, Li, Krause, Scarlett (2022) (corrupted values).
"""

import math
from dataclasses import dataclass

from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """Where the width comes from.

    Attributes:
        beta: A practical ``β``, which nothing proves; None for the proven one.
        norm_bound: ``Ψ``, a bound on the norm of the function, less the prior mean, in the space of the kernel.
        noise_ratio: ``R/√λ``: the noise is ``R``-sub-Gaussian, the model's noise variance is ``λ``.
        delta: Probability that any bound fails.
    """

    beta: float | None = None
    norm_bound: float = 1.0
    noise_ratio: float = 1.0
    delta: float = 0.1

    def __post_init__(self) -> None:
        if self.beta is not None:
            check_number("beta", self.beta, above=0.0)
        check_number("norm_bound", self.norm_bound, above=0.0)
        check_number("noise_ratio", self.noise_ratio, above=0.0)
        check_number("delta", self.delta, above=0.0, below=1.0)

    def for_batches(self, num_points: int, num_batches: int) -> float:
        """``√β`` for bounds at ``num_points`` points after each of ``num_batches`` batches that did not look at their own noise.

        ``Ψ + (R/√λ) √(2 log(2 |X| B / δ))``: the weights of the posterior mean have a norm of at most ``σ/√λ``, so the noise in it is
        sub-Gaussian; a union is taken over points, batches and the two sides. The information gain does not come in.
        """
        if self.beta is not None:
            return math.sqrt(self.beta)
        union = 2 * num_points * num_batches / self.delta
        return self.norm_bound + self.noise_ratio * math.sqrt(2 * math.log(union))

    def for_feedback(self, information_gain: float) -> float:
        """``√β`` for points that were chosen with feedback: ``Ψ + (R/√λ) √(2 (gain + log(1/δ)))``, gain in nats, realised."""
        if self.beta is not None:
            return math.sqrt(self.beta)
        return self.norm_bound + self.noise_ratio * math.sqrt(2 * (information_gain + math.log(1 / self.delta)))

    @property
    def words(self) -> str:
        """What stands behind a bound of this width."""
        if self.beta is not None:
            return f"practical width, beta = {self.beta:g}: no proof stands behind it"
        return (
            f"holds with probability {1 - self.delta:g} if the function has norm {self.norm_bound:g} or less in the space of the "
            f"kernel and the noise is as modelled"
        )
