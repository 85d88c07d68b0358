"""Rows and figures of the tables: what each ingredient adds to a large batch, with paired seeds."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright.core.statistics import Interval, mean_interval, ratio_interval
from batchwright.core.study_record import Level, Panel, Row, Series, StudyFigure
from batchwright.studies.train_longer.arms import ARMS
from batchwright.studies.train_longer.presets import TABLES, Table
from batchwright.studies.verdict import judge, judge_interval

Results = Mapping[str, Mapping[str, Any]]

# Per cent right on the test set: of the digits the specification's own runs, of the others the paper's table as recalled there.
PRINTED = {
    "clean": {"sb": 97.17, "lb": 94.17, "lr": 96.93, "gbn": 97.27, "ra": 98.13, "ra-no-gbn": 97.37, "noise": 83.73},
    "noisy": {"sb": 96.77, "lb": 92.80, "lr": 95.43, "gbn": 96.90, "ra": 86.47, "noise": 86.8},
    "mnist-f1": {"sb": 98.27, "lb": 97.05, "lr": 97.55, "gbn": 97.60, "ra": 98.53},
    "cifar-resnet-8": {},
    "cifar-resnet-44-b-2048": {},
    "cifar-resnet-44-b-4096": {"sb": 92.83, "lb": 86.10, "lr": 89.30, "gbn": 90.50, "ra": 93.07},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Results of one table.

    Attributes:
        table: What was run.
        entries: By arm and seed.
        num_seeds: How many are planned, by arm.
    """

    table: Table
    entries: Mapping[str, Mapping[int, Mapping[str, Any]]]
    num_seeds: Mapping[str, int]

    @property
    def planned(self) -> frozenset[str]:
        """Arms of the preset."""
        return frozenset(self.num_seeds)

    def values(self, arm: str, what: str = "test") -> dict[int, float]:
        """One number a seed."""
        return {seed: float(entry[what]) for seed, entry in self.entries.get(arm, {}).items()}

    def differences(self, one: str, other: str) -> dict[int, float]:
        """``one`` less ``other`` in points, seed by seed, where both are there."""
        first, second = self.values(one), self.values(other)
        return {seed: first[seed] - second[seed] for seed in first if seed in second}

    def printed(self, one: str, other: str) -> float | None:
        """The published difference."""
        known = PRINTED[self.table.name]
        return known[one] - known[other] if one in known and other in known else None


def find_tables(preset: str, results: Results) -> list[Found]:
    """The tables of a preset with what has been finished of them."""
    found = []
    for table in TABLES.values():
        if preset in table.num_seeds:
            entries: dict[str, dict[int, Mapping[str, Any]]] = {}
            for name, result in results.items():
                if name.startswith(f"{table.name}/"):
                    arguments = result["arguments"]
                    entries.setdefault(arguments["arm"], {})[int(arguments["seed"])] = result
            found.append(
                Found(
                    table=table,
                    entries=entries,
                    num_seeds={arm: table.seeds_of(preset, arm) for arm in table.arms_of(preset)},
                )
            )
    return found


def table_rows(found: Sequence[Found]) -> list[Row]:
    """The claims on every table."""
    return [row for each in found for row in _rows(each)]


def _rows(each: Found) -> list[Row]:
    if each.table.name == "clean":
        return [
            _difference(each, "sb", "lb", 2.0, 100.0, "a large batch loses at least 2 points"),
            _recovered(each),
            _difference(each, "sb", "gbn", -100.0, 0.5, "with +LR and ghosts within half a point of the small batch"),
            _difference(each, "ra", "sb", 0.0, 100.0, "as many updates close the gap"),
            *_noise_rows(each),
        ]
    if each.table.name == "noisy":
        return [
            _difference(each, "sb", "gbn", -100.0, 0.5, "with +LR and ghosts within half a point of the small batch"),
            _difference(each, "ra", "sb", 0.0, 100.0, "as many updates close the gap (the paper, on clean labels)"),
            _difference(each, "sb", "ra", 5.0, 100.0, "the specification's own runs: it memorises the wrong labels"),
            _memorised(each),
            *_noise_rows(each),
        ]
    rows = [
        _difference(each, "lr", "lb", 0.0, 100.0, "the root of the ratio of batch sizes helps"),
        _difference(each, "gbn", "lr", -0.1, 100.0, "ghosts do not harm, and help where batch norm does"),
        _difference(each, "ra", "gbn", 0.0, 100.0, "as many updates help"),
        _difference(each, "ra", "sb", -0.2, 100.0, "and close the gap to the small batch"),
    ]
    if "noise" in each.planned:
        rows.append(_difference(each, "noise", "lb", 0.0, 100.0, "an alternative to the scaled learning rate"))
    return rows


def _noise_rows(each: Found) -> list[Row]:
    if "noise" not in each.planned:
        return []
    return [
        _difference(each, "noise", "lb", 0.0, 100.0, "noise as an alternative to the scaled learning rate"),
        _difference(each, "noise-gamma", "noise", 0.0, 100.0, "no claim of the paper: weights that are not negative"),
        _difference(
            each, "noise-ra", "sb", -1.0, 1.0, "no claim of the paper: the small batch's noise and as many updates"
        ),
    ]


def _difference(each: Found, one: str, other: str, low: float, high: float, claim: str) -> Row:
    found = each.differences(one, other)
    planned = min(each.num_seeds.get(one, 0), each.num_seeds.get(other, 0))
    measured, verdict = judge(list(found.values()), low, high, finished=len(found) >= planned)
    return Row(
        what=f"{ARMS[one].title} less {ARMS[other].title}: points of test accuracy",
        group=each.table.title,
        claim=claim,
        published=each.printed(one, other),
        measured=measured,
        seeds=tuple(found),
        low=low,
        high=high,
        verdict=verdict,
        note=_means(each, found, one, other) + _left(len(found), planned),
    )


def _recovered(each: Found) -> Row:
    """Share of the gap that the scaled learning rate gives back, a ratio of two means over the same seeds."""
    gap, won = each.differences("sb", "lb"), each.differences("lr", "lb")
    seeds = [seed for seed in gap if seed in won]
    printed = PRINTED[each.table.name]
    measured: Interval | None = None
    verdict = "not there yet"
    if len(seeds) >= 2:
        pairs = np.array([[won[seed], gap[seed]] for seed in seeds])
        top, bottom = pairs.mean(axis=0)
        measured = ratio_interval(
            float(top), float(bottom), np.cov(pairs.T, ddof=1) / len(seeds), dof=float(len(seeds) - 1)
        )
        verdict = judge_interval(measured, 0.7, math.inf)
    return Row(
        what="share of the gap that +LR recovers",
        group=each.table.title,
        claim="at least 70 %",
        published=(printed["lr"] - printed["lb"]) / (printed["sb"] - printed["lb"]),
        measured=measured,
        seeds=tuple(seeds),
        low=0.7,
        high=math.inf,
        verdict=verdict,
        note=_means(each, seeds, "sb", "lb", "lr") + _left(len(seeds), each.num_seeds.get("lr", 0)),
    )


def _memorised(each: Found) -> Row:
    found = each.values("ra", "train")
    measured, verdict = judge(list(found.values()), 99.5, 100.0, finished=len(found) >= each.num_seeds.get("ra", 0))
    return Row(
        what="+RA: training accuracy, wrong labels included",
        group=each.table.title,
        claim="all labels are learnt, the wrong ones too",
        published=100.0,
        measured=measured,
        seeds=tuple(found),
        low=99.5,
        high=100.0,
        verdict=verdict,
        note=_left(len(found), each.num_seeds.get("ra", 0)).removeprefix("; "),
    )


def _means(each: Found, seeds: Collection[int], *arms: str) -> str:
    parts = []
    for arm in arms:
        values = [value for seed, value in each.values(arm).items() if seed in seeds]
        if values:
            error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
            parts.append(f"{ARMS[arm].title} {np.mean(values):.2f}{error} %")
    return ", ".join(parts)


def _left(number: int, planned: int) -> str:
    return "" if number >= planned else f"; {number} of {planned} seeds"


def table_figure(found: Sequence[Found]) -> StudyFigure | None:
    """Test accuracy of every arm, a panel a table."""
    panels = []
    for each in found:
        arms = [arm for arm in each.table.arms if each.values(arm)]
        if len(arms) < 2:
            continue
        ends = [mean_interval(list(each.values(arm).values())) for arm in arms]
        small = [end.value for arm, end in zip(arms, ends, strict=True) if arm == "sb"]
        panels.append(
            Panel(
                title=each.table.title,
                x_name="",
                y_name="test accuracy (%)",
                series=(
                    Series(
                        name="mean over seeds",
                        x=tuple(float(place) for place in range(len(arms))),
                        y=tuple(end.value for end in ends),
                        low=tuple(_end(end.low, end.value) for end in ends),
                        high=tuple(_end(end.high, end.value) for end in ends),
                        line=False,
                        legend=False,
                    ),
                ),
                levels=tuple(Level(y=value, name="") for value in small),
                x_ticks=tuple(ARMS[arm].title for arm in arms),
            )
        )
    if not panels:
        return None
    return StudyFigure(
        name="tables",
        title="What each ingredient adds to a large batch",
        caption="Mean test accuracy over seeds with its 95 % interval; from the third arm on each holds what those before it do, as "
        "far as +RA. Arms called noise keep the small batch's learning rate. The dashed line is the small batch.",
        panels=tuple(panels),
        columns=2,
    )


def _end(end: float, value: float) -> float:
    return end if math.isfinite(end) else value


SHOWN = ("sb", "gbn", "ra", "noise-ra")


def course_figure(found: Sequence[Found]) -> StudyFigure | None:
    """Test and training accuracy along the updates, on the digits."""
    panels = []
    for each in found:
        if each.table.data != "digits" or not all(each.entries.get(arm) for arm in ("sb", "ra")):
            continue
        series = []
        for colour, arm in enumerate(SHOWN):
            entries = list(each.entries.get(arm, {}).values())
            if not entries:
                continue
            for dash, what in enumerate(("test", "train")):
                series.append(
                    Series(
                        name=f"{ARMS[arm].title}, {what}",
                        x=tuple(float(point["update"]) for point in entries[0]["points"]),
                        y=_mean(entries, lambda point, what=what: float(point[what])),  # type: ignore[misc]
                        colour=colour,
                        dash=dash,
                        markers=False,
                    )
                )
        panels.append(
            Panel(
                title=each.table.title,
                x_name="updates",
                y_name="accuracy (%)",
                series=tuple(series),
                x_log=True,
            )
        )
    if not panels:
        return None
    return StudyFigure(
        name="courses",
        title="Accuracy along the updates",
        caption="Solid lines are test, dashed lines training accuracy, wrong labels included; mean over seeds.",
        panels=tuple(panels),
        columns=2,
    )


def _mean(entries: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, float]], float]) -> tuple[float, ...]:
    return tuple(float(each) for each in np.mean([[value(point) for point in entry["points"]] for entry in entries], 0))
