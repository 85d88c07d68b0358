"""What a report draws of a search: the model on a slice through the recommended setting, and along each axis, as numbers.

The report reads records alone, so the numbers are written down with the search.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from batchwright.bandits import Bandit, Perturbation
from batchwright.bandits.dense_posterior import DensePosterior
from batchwright.bandits.space import LOGARITHMIC, Dimension
from batchwright.tuning.outcome import Metric
from batchwright.tuning.result import Tuning
from batchwright.tuning.settings import TuneSettings

# Places along an axis of the slice, and along a profile.
GRID, PROFILE = 33, 65
# A plain search shows a robust optimum too, for settings that are off by this.
SHOWN_SHARE = 0.10
NUM_NEIGHBOURS = 24


def picture(bandit: Bandit, settings: TuneSettings, found: Tuning) -> dict[str, Any]:
    """The fields of a journal's ``picture``.

    Returns:
        ``axes``: the two numeric settings that the value depends on most, by the length scales of the kernel; one where there is one.
        ``slice``: posterior mean (in the units of the metric), standard deviation (on the scale of the bandit), worst mean within the
        perturbation, and whether each place survives, rows along the second axis. ``profiles``: the same along each numeric axis.
        ``optima``: recommended, plain and robust, by name.
    """
    posterior = bandit.evidence.posterior(bandit.num_rounds)
    assert posterior is not None  # there is a recommendation
    space, metric = settings.space, settings.metric
    centre = space.point(found.values)
    ball = Perturbation(radius=settings.radius) if settings.radius else Perturbation.relative(space, SHOWN_SHARE)
    numeric = [number for number, each in enumerate(space.dimensions) if each.kind != "categorical"]
    ranked = sorted(numeric, key=lambda number: _lengthscale(bandit, posterior, number))
    view = _View(bandit, posterior, metric, ball)
    profiles = []
    for number in numeric:
        dimension = space.dimensions[number]
        places = places_along(dimension, PROFILE)
        points = centre.repeat(len(places), 1)
        points[:, number] = places
        profiles.append(
            {"name": dimension.name, "log": dimension.kind in LOGARITHMIC, "x": places.tolist(), **view.at(points)}
        )
    drawn: dict[str, Any] = {}
    if len(ranked) > 1:
        across, up = ranked[:2]
        x, y = (places_along(space.dimensions[number], GRID) for number in (across, up))
        points = centre.repeat(len(x) * len(y), 1)
        points[:, across], points[:, up] = x.repeat(len(y)), y.repeat_interleave(len(x))
        drawn = {"x": x.tolist(), "y": y.tolist(), **view.at(points)}
    robust = found.best.values if settings.radius is not None else view.robust_optimum()
    return {
        "axes": [
            {"name": space.dimensions[number].name, "log": space.dimensions[number].kind in LOGARITHMIC}
            for number in ranked[:2]
        ],
        "slice": drawn,
        "profiles": profiles,
        "optima": {"recommended": found.best.values, "plain": found.plain.values, "robust": robust},
        "perturbed_by": {
            name: _off(dimension, radius)
            for name, dimension, radius in zip(space.names, space.dimensions, ball.radii(space), strict=True)
            if radius > 0
        },
        "metric": {"name": metric.name, "direction": metric.direction, "scale": metric.scale},
    }


def places_along(dimension: Dimension, number: int) -> Tensor:
    """Even places of a numeric axis, each value there is at most once."""
    if dimension.kind == "power-of-two":
        steps = round(math.log2(dimension.high / dimension.low))
        powers: Tensor = dimension.low * 2.0 ** torch.arange(steps + 1, dtype=torch.float64)
        return powers
    unit = torch.linspace(0, 1, number, dtype=torch.float64)
    distinct: Tensor = torch.unique(dimension.from_unit(unit))
    return distinct


class _View:
    """Reads the model at points."""

    def __init__(self, bandit: Bandit, posterior: DensePosterior, metric: Metric, ball: Perturbation) -> None:
        self.bandit, self.posterior, self.metric, self.ball = bandit, posterior, metric, ball

    def at(self, points: Tensor) -> dict[str, list[Any]]:
        """Mean, standard deviation, worst mean and survival."""
        bandit = self.bandit
        mean, variance = self.posterior.at(bandit.encode(points))
        alive = torch.cat([bandit.survivors.passes(bandit.make_pool(part)) for part in points.split(512)])
        return {
            "mean": self._raw(mean),
            "std": [float(f"{each:.4g}") for each in variance.sqrt().tolist()],
            "worst": self._raw(self.worst(points)),
            "alive": alive.tolist(),
        }

    def worst(self, points: Tensor) -> Tensor:
        """Worst mean of each point's ball, signed as of a maximisation."""
        found = []
        for part in points.split(512):
            generator = torch.Generator().manual_seed(0)
            around = self.ball.around(self.bandit.space, part, NUM_NEIGHBOURS, generator)
            around = torch.cat([part[:, None], around], 1)
            values: Tensor = self.posterior.mean_at(self.bandit.encode(around.reshape(-1, part.shape[1])))
            found.append(values.reshape(len(part), -1).min(1).values)
        joined: Tensor = torch.cat(found)
        return joined

    def robust_optimum(self) -> dict[str, float | int | str]:
        """The survivor of the best worst mean."""
        pool, alive = self.bandit.survivors.pool, self.bandit.survivors.alive
        worst = self.worst(pool.centres).masked_fill(~alive, -math.inf)
        return self.bandit.space.named(pool.centres[int(worst.argmax())].tolist())

    def _raw(self, values: Tensor) -> list[float]:
        sign = self.bandit.evidence.sign
        return [float(f"{self.metric.raw(sign * each):.5g}") for each in values.tolist()]


def _lengthscale(bandit: Bandit, posterior: DensePosterior, number: int) -> float:
    """Of a numeric dimension; the axes of choices before it are passed over."""
    scales: Sequence[float] = posterior.kernel.lengthscales
    column = sum(each.width for each in bandit.space.dimensions[:number])
    return float(scales[column] if len(scales) > column else scales[0])


def _off(dimension: Dimension, radius: float) -> str:
    return f"a factor of {math.exp(radius):.4g}" if dimension.kind in LOGARITHMIC else f"{radius:.3g}"
