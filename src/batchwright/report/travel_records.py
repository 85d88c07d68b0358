"""How far the weights of a run have come, and the laws that were fitted to it, as its records tell them."""

from dataclasses import dataclass
from typing import Any

from batchwright.core.records import Records
from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval
from batchwright.report.record_values import number, thin


@dataclass(frozen=True, kw_only=True, slots=True)
class DistanceRecord:
    """Euclidean distance of the weights from where they began, after a step."""

    step: float
    distance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LawRecord:
    """A law fitted to the distances; ``slope`` times its shape, plus ``offset``."""

    offset: float
    slope: float
    r_squared: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PotentialRecord:
    """Standard deviation of the loss over directions at each radius, and alpha, twice its slope in logarithms."""

    radii: tuple[float, ...]
    deviations: tuple[Interval, ...]
    alpha: Interval


def travel_of(records: Records) -> dict[str, Any]:
    """The fields of `RunRecords` on it, as the end of the run has them; points that repeat after a resume are taken once."""
    points = {int(line["step"]): number(line["distance"]) for line in records.of_kind("distance")}
    fits, potentials = records.of_kind("diffusion"), records.of_kind("potential")
    fit = fits[-1] if fits else {}
    return {
        "distances": thin([DistanceRecord(step=step, distance=points[step]) for step in sorted(points) if step >= 1]),
        "laws": {
            str(name): LawRecord(
                offset=float(law["offset"]), slope=float(law["slope"]["value"]), r_squared=float(law["r_squared"])
            )
            for name, law in (fit.get("laws") or {}).items()
        },
        "fitted_to": float(fit.get("last_step", 0.0)),
        "diffusion_told": str(fit.get("told") or ""),
        "potential": None
        if not potentials
        else PotentialRecord(
            radii=tuple(float(radius) for radius in potentials[-1]["radii"]),
            deviations=from_plain(tuple[Interval, ...], potentials[-1]["deviations"], "deviations"),
            alpha=from_plain(Interval, potentials[-1]["alpha"], "alpha"),
        ),
    }
