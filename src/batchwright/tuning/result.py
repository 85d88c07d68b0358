"""What a search found: the recommendation with its certificate, in the units of the metric, and the trials behind it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchwright.bandits import Bandit, Recommendation
from batchwright.bandits.certificate import worst_means
from batchwright.tuning.outcome import TuningTrial, best_of
from batchwright.tuning.settings import TuneSettings, untouched


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """A setting with what the model says of it.

    Attributes:
        values: Setting by name.
        mean: Posterior mean there, in the units of the metric (the geometric mean on a logarithmic scale).
        worst: Worst posterior mean of its neighbourhood; equal to ``mean`` without a perturbation.
    """

    values: Mapping[str, float | int | str]
    mean: float
    worst: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tuning:
    """A search as far as it is.

    Attributes:
        settings: Of the search.
        recommendation: Of the bandit, on its own scale.
        best: The recommended setting: the optimum of the posterior mean over the survivors, or the robust one; never the best trial.
        plain: The optimum without regard to perturbations; the same setting in a plain search.
        trials: All that have ended, in the order of asking.
        folder: Of the journal; None without one.
        reason: ``done``, or ``interrupted``.
        seconds: Wall-clock seconds, those of earlier parts of a resumed search included.
    """

    settings: TuneSettings
    recommendation: Recommendation
    best: Optimum
    plain: Optimum
    trials: tuple[TuningTrial, ...]
    folder: Path | None
    reason: str
    seconds: float

    @property
    def values(self) -> Mapping[str, float | int | str]:
        """The recommended setting."""
        return self.best.values

    @property
    def best_trial(self) -> TuningTrial | None:
        """For comparison alone: the luckiest trial."""
        return best_of(self.trials, self.settings.metric)

    @property
    def counts(self) -> Mapping[str, int]:
        """Trials by their end, and those that were copied."""
        found: dict[str, int] = {}
        for trial in self.trials:
            found[trial.outcome.status] = found.get(trial.outcome.status, 0) + 1
        copied = sum(trial.copied_from is not None for trial in self.trials)
        return found | ({"copied": copied} if copied else {})

    @property
    def lines(self) -> tuple[str, ...]:
        """The result in sentences."""
        metric, found = self.settings.metric, self.recommendation
        robust = self.settings.radius is not None
        lines = [f"Recommended: {setting_text(self.best.values)}."]
        if robust:
            lines.append(
                f"Its {metric.name} is expected to be {self.best.mean:.4g}, and {self.best.worst:.4g} at the worst place within the "
                f"perturbation; without one {setting_text(self.plain.values)} would be expected at {self.plain.mean:.4g}, and at "
                f"{self.plain.worst:.4g} when it is off."
            )
            still = untouched(self.settings.space, self.settings.radius or {})
            if still:
                lines.append(f"A perturbation of this size does not move {', '.join(still)}, which takes whole steps.")
        else:
            low, high = self._interval()
            lines.append(
                f"Its {metric.name} is expected to be {self.best.mean:.4g} ({low:.4g} to {high:.4g} at two standard "
                "deviations of the model)."
            )
        lines.append(
            f"The optimum is at most {metric.difference(found.regret_bound)} better ({found.guarantee})."
            if math.isfinite(found.regret_bound)
            else f"Nothing bounds yet how much better the optimum is ({found.guarantee})."
        )
        lines += [f"{part[0].upper()}{part[1:]}." for part in (found.region_words, found.calibration.words)]
        lines += [f"{part[0].upper()}{part[1:]}." for part in found.warnings]
        best = self.best_trial
        if best is not None:
            where = setting_text(best.values)
            lines.append(
                f"The best of the trials came to {best.outcome.value:.4g} at {where}; among noisy trials that is mostly luck, so it is "
                "not what is recommended."
            )
        return tuple(lines)

    def to_record(self) -> dict[str, Any]:
        """The fields of a journal's ``recommendation``, and of ``--json``."""
        found, metric = self.recommendation, self.settings.metric
        best = self.best_trial
        low, high = self._interval()
        return {
            "values": self.best.values,
            "expected": {"value": self.best.mean, "low": low, "high": high},
            "worst": self.best.worst,
            "plain": {"values": self.plain.values, "mean": self.plain.mean, "worst": self.plain.worst},
            "regret_bound": found.regret_bound,
            "regret_bound_words": metric.difference(found.regret_bound),
            "guarantee": found.guarantee,
            "proven": found.proven,
            "region": {
                "fraction": found.region.fraction,
                "low": found.region.low,
                "high": found.region.high,
                "words": found.region_words,
            },
            "calibration": found.calibration.words,
            "warnings": found.warnings,
            "counts": self.counts,
            "best_trial": None if best is None else {"id": best.id, "values": best.values, "value": best.outcome.value},
            "lines": self.lines,
            "seconds": self.seconds,
        }

    def _interval(self) -> tuple[float, float]:
        """Two standard deviations of the model about the recommended mean, in the units of the metric."""
        metric, found = self.settings.metric, self.recommendation
        ends = (metric.raw(found.mean - 2 * found.std), metric.raw(found.mean + 2 * found.std))
        return min(ends), max(ends)


def summarise(
    bandit: Bandit,
    settings: TuneSettings,
    trials: Mapping[int, TuningTrial],
    *,
    folder: Path | None,
    reason: str,
    seconds: float,
) -> Tuning:
    """The result of a bandit that has at least one value."""
    found, metric = bandit.recommend(), settings.metric
    point = settings.space.point(found.values)
    best = Optimum(
        values=found.values,
        mean=metric.raw(mean_at(bandit, point)),
        worst=metric.raw(found.mean),
    )
    return Tuning(
        settings=settings,
        recommendation=found,
        best=best,
        plain=best if settings.radius is None else plain_optimum(bandit, settings),
        trials=tuple(trials[key] for key in sorted(trials)),
        folder=folder,
        reason=reason,
        seconds=seconds,
    )


def mean_at(bandit: Bandit, point: Any) -> float:
    """Posterior mean of a point on the scale of the bandit."""
    posterior = bandit.evidence.posterior(bandit.num_rounds)
    assert posterior is not None  # there is a value
    return bandit.evidence.sign * float(posterior.mean_at(bandit.encode(point[None].to(bandit.device)))[0])


def plain_optimum(bandit: Bandit, settings: TuneSettings) -> Optimum:
    """The optimum of the same posterior mean without regard to perturbations, and what a perturbation can make of it."""
    metric, posterior = settings.metric, bandit.evidence.posterior(bandit.num_rounds)
    assert posterior is not None
    # The candidates of a robust search are few, but their neighbours are points of the box like any other.
    pool = bandit.survivors.pool
    index = int(posterior.mean_at(pool.encoded).argmax())
    point = pool.points[index]
    around = bandit.make_pool(point[None])
    worst = bandit.evidence.sign * float(worst_means(around, posterior)[0])
    return Optimum(
        values=settings.space.named(point.tolist()), mean=metric.raw(mean_at(bandit, point)), worst=metric.raw(worst)
    )


def setting_text(values: Mapping[str, float | int | str]) -> str:
    """``lr 0.05, batch_size 64``."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
