"""The values of a bandit and the model that they are read with."""

import math

import torch
from torch import Tensor

from batchwright.bandits.confidence import Confidence
from batchwright.bandits.dense_posterior import DensePosterior, dense_posterior, merged
from batchwright.bandits.model import InForce, Model, in_force
from batchwright.bandits.trials import DONE, FAILED, PENDING, Trials

# Noise below this part of the kernel's variance is lost in rounding.
NOISE_FLOOR = 1e-9
# Of the test of a round's values against the model before it: probability of a false alarm, and the most distinct points.
FALSE_ALARM, LARGEST_TEST = 0.005, 1500


class Evidence:
    """Trials, their values with the sign of a maximisation, and the model after each round.

    Attributes:
        trials: Everything asked so far.
        sign: 1, or −1 where small values are good.
        history: The model in force before the first round, after it, and so on.
    """

    def __init__(self, trials: Trials, model: Model, *, sign: float, worst_for_failed: bool, seed: int) -> None:
        self.trials, self.model, self.sign = trials, model, sign
        self.worst_for_failed, self.seed = worst_for_failed, seed
        self.history: list[InForce] = []

    def data(self, number: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct encoded points of a round, or of all, the means of their signed values, and how many those are."""
        return merged(*self._values(number))

    def model_after(self, num_rounds: int) -> InForce:
        """The model after closed rounds; fitted once, when it is first asked for."""
        while len(self.history) <= num_rounds:
            points, values = self._values(None)
            found = in_force(self.model, points, values, self.sign, seed=self.seed + len(self.history))
            self.history.append(found)
        return self.history[num_rounds]

    def noise_after(self, num_rounds: int) -> float:
        """Noise variance of one value."""
        force = self.model_after(num_rounds)
        return max(force.noise_variance, NOISE_FLOOR * force.kernel.variance)

    def posterior(self, num_rounds: int, number: int | None = None) -> DensePosterior | None:
        """Of the values of a round, or of all, under the model after ``num_rounds``; None where there are none."""
        points, values, counts = self.data(number)
        if not len(values):
            return None
        force = self.model_after(num_rounds)
        return dense_posterior(
            points, values, force.kernel, self.noise_after(num_rounds), prior_mean=force.mean, counts=counts
        )

    def surprise(self, number: int) -> str:
        """A warning if the values of round ``number`` are not what the model before that round predicts; empty otherwise.

        The squares of the whitened prediction errors sum to ``χ²`` under the model, whichever points were chosen. It is a test on
        values that nothing was fitted to, so it finds what the leave-one-out residuals of a fit hide.
        """
        from scipy.special import gammaincinv

        earlier = self.trials.round < number
        points, values, counts = merged(*self._values(None, earlier))
        new, told, repeats = self.data(number)
        if not len(values) or not 0 < len(told) <= LARGEST_TEST:
            return ""
        force, noise = self.model_after(number), self.noise_after(number)
        before = dense_posterior(points, values, force.kernel, noise, prior_mean=force.mean, counts=counts)
        covariance = before.covariance(new)
        covariance.diagonal().add_(noise / repeats)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if int(failed):
            return ""
        errors = torch.linalg.solve_triangular(factor, (told - before.mean_at(new))[:, None], upper=False)
        found, allowed = (
            float(errors.square().mean()),
            float(2 * gammaincinv(len(told) / 2, 1 - FALSE_ALARM) / len(told)),
        )
        if found <= allowed:
            return ""
        return (
            f"the values of round {number + 1} were not what the model before it predicted: mean square {found:.1f} of the errors, "
            f"expected below {allowed:.1f}; what earlier rounds eliminated is in doubt"
        )

    def root_beta(self, confidence: Confidence, num_rounds: int) -> float:
        """``√β`` for points that were chosen by all values: with their information gain."""
        if confidence.beta is not None:
            return confidence.for_feedback(0.0)
        points, _, counts = self.data()
        if not len(points):
            return confidence.for_feedback(0.0)
        roots = (counts / self.noise_after(num_rounds)).sqrt()
        matrix = roots[:, None] * self.model_after(num_rounds).kernel(points, points) * roots
        matrix.diagonal().add_(1.0)
        return confidence.for_feedback(0.5 * float(torch.linalg.slogdet(matrix)[1]))

    def _values(self, number: int | None, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        status, value = self.trials.status, self.sign * self.trials.value
        used = status == DONE
        if self.worst_for_failed:
            worst = float(value[used].min()) if bool(used.any()) else math.nan
            value = torch.where(status == FAILED, worst, value)
            used = (status != PENDING) & torch.isfinite(value)
        if number is not None:
            used = used & (self.trials.round == number)
        if among is not None:
            used = used & among
        places = used.nonzero()[:, 0].to(self.trials.encoded.device)
        return self.trials.encoded[places], value.to(places.device)[places]
