"""What a bandit recommends, with a certificate: how much better the optimum can be at most."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.bandits.bounds import tightest
from batchwright.bandits.calibration import Calibration, calibration
from batchwright.bandits.dense_posterior import DensePosterior
from batchwright.bandits.pool import Pool, Region
from batchwright.bandits.progress import Progress
from batchwright.bandits.trials import FAILED
from batchwright.core.errors import InputError

# Distinct points that the calibration looks at.
CALIBRATED = 2000
# Points in each round of the polish on a box, and rounds, each of half the reach.
POLISH_POINTS, POLISH_ROUNDS = 128, 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """The optimum of the posterior mean over the survivors; never simply the best trial.

    Attributes:
        point: One value a dimension.
        values: The same by name.
        mean: Posterior mean there; with a perturbation, the worst of the neighbourhood. In the units of the values told.
        std: Posterior standard deviation of the function there, without noise.
        regret_bound: The optimum over the candidates is at most this much better; infinite before a round is finished.
        guarantee: What stands behind that bound.
        proven: Whether it is a theorem for the model as given: a proven width and a given kernel.
        region: Where the optimum may still be.
        region_words: The same in a sentence.
        calibration: Whether the model agrees with its data.
        warnings: Sentences on what makes the bound doubtful; empty where nothing does.
    """

    point: tuple[float, ...]
    values: Mapping[str, float | int | str]
    mean: float
    std: float
    regret_bound: float
    guarantee: str
    proven: bool
    region: Region
    region_words: str
    calibration: Calibration
    warnings: tuple[str, ...]

    @property
    def words(self) -> str:
        """The certificate in a few sentences."""
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.values.items()
        )
        parts = [
            f"Recommended: {values}; posterior mean {self.mean:.4g}, standard deviation {self.std:.2g}",
            f"The optimum is at most {self.regret_bound:.3g} better ({self.guarantee})",
            self.region_words,
            self.calibration.words,
            *self.warnings,
        ]
        return "\n".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def certify(bandit: Progress) -> Recommendation:
    """The recommendation of a bandit from the values so far; see `Bandit.recommend`."""
    posterior = bandit.evidence.posterior(bandit.num_rounds)
    if posterior is None:
        raise InputError("recommend needs at least one finished trial, got none; tell values first")
    survivors = bandit.survivors
    pool = survivors.pool
    means = worst_means(pool, posterior)
    index = int(means.masked_fill(~survivors.alive, -math.inf).argmax())
    lower = float(pool.view(survivors.lower)[index])
    if not bandit.finite:
        point = polish(bandit, posterior, pool.points[index])
        pool, index = bandit.make_pool(point[None]), 0
        means = worst_means(pool, posterior)
        lower = float(pool.view(tightest(survivors.bounds, pool.encoded)[1])[0])
    point = pool.points[index]
    fit = calibration(
        posterior.points[:CALIBRATED],
        bandit.evidence.data()[1][:CALIBRATED],
        posterior.kernel,
        (posterior.noise_variance / posterior.counts)[:CALIBRATED],
        prior_mean=posterior.prior_mean,
    )
    warnings = list(survivors.warnings)
    if fit.misspecified:
        warnings.append("the bound should not be relied on, since the model does not fit its data")
    failed, waiting = int((bandit.trials.status == FAILED).sum()), len(bandit.pending())
    if failed:
        warnings.append(f"{failed} of {len(bandit.trials)} trials failed")
    if waiting:
        warnings.append(f"{waiting} trials are pending and not in the bounds")
    region = bandit.region
    return Recommendation(
        point=tuple(point.tolist()),
        values=bandit.space.named(point.tolist()),
        mean=bandit.evidence.sign * float(means[index]),
        std=_std(pool, posterior, index),
        regret_bound=survivors.largest_regret(lower),
        guarantee=bandit.guarantee,
        proven=bandit.proven,
        region=region,
        region_words=region.words(bandit.space),
        calibration=fit,
        warnings=tuple(warnings),
    )


def worst_means(pool: Pool, posterior: DensePosterior) -> Tensor:
    """Posterior mean of each centre, or the worst of its neighbourhood."""
    blocks = pool.encoded.split(max(1, 2**23 // len(posterior.points)))
    return pool.view(torch.cat([posterior.mean_at(block) for block in blocks]))


def polish(bandit: Progress, posterior: DensePosterior, point: Tensor) -> Tensor:
    """A better point of the mean near one of a box, among those that the bounds let pass."""
    reach = 0.5 * bandit.survivors.pool.num_centres ** (-1 / bandit.space.dim)
    for _ in range(POLISH_ROUNDS):
        draws = torch.rand(POLISH_POINTS, bandit.space.dim, generator=bandit.polish_generator(), dtype=torch.float64)
        places = torch.cat([point[None], bandit.space.near(point, reach * (2 * draws.to(point) - 1))])
        pool = bandit.make_pool(places)
        passed = bandit.survivors.passes(pool)
        passed[0] = True
        point = places[int(worst_means(pool, posterior).masked_fill(~passed, -math.inf).argmax())]
        reach *= 0.5
    return point


def _std(pool: Pool, posterior: DensePosterior, index: int) -> float:
    around = torch.tensor([index], device=pool.points.device)
    if pool.near is not None:
        around = pool.near.index[pool.near.centre == index]
    mean, variance = posterior.at(pool.encoded[around])
    return math.sqrt(float(variance[mean.argmin()]))
