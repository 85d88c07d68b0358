"""Rows and figures of the plateaus: levels against both thresholds, and the way there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from batchwright.core.serialization import from_plain
from batchwright.core.statistics import mean_interval
from batchwright.core.study_record import Level, Panel, Row, Series, StudyFigure
from batchwright.studies.eoss.settings import Setting
from batchwright.studies.verdict import Trend, judge, judge_each, trend

Results = Mapping[str, Mapping[str, Any]]

LAST = 0.2  # share of the measurements that is the plateau
TREND = 0.4  # share that the trend is read from
GROUP = "Plateaus of batch sharpness"
# By optimizer, momentum and batch size: what the specification's own runs gave; the full batch is 512.
PRINTED = {
    ("SGD", 0.0): {4: 15.4, 16: 10.3, 64: 15.9, 512: 20.01},
    ("SGDM", 0.5): {4: 10.09, 16: 9.1, 64: 13.1, 512: 29.98},
    ("SGDM", 0.8): {4: 5.2, 16: 5.5, 64: 7.8, 256: 24.2, 512: 35.99},
    ("SGDN", 0.5): {4: 10.1},
    ("SGDN", 0.8): {4: 5.6, 64: 9.2, 256: 14.2, 512: 13.84},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plateau:
    """One setting over its seeds.

    Attributes:
        setting: Of the runs.
        num_train: Examples of the training set.
        seeds: Of the runs that did not diverge.
        num_diverged: Runs that did.
        levels: Mean over the last fifth of the measurements, one a seed.
        steps: Of the measurements.
        curves: Batch sharpness at ``steps``, one row a seed.
        sharpness: Largest Hessian eigenvalue at the end, one a seed.
        trend: Of the mean curve over its last two fifths.
    """

    setting: Setting
    num_train: int
    seeds: tuple[int, ...]
    num_diverged: int
    levels: tuple[float, ...]
    steps: tuple[float, ...]
    curves: tuple[tuple[float, ...], ...]
    sharpness: tuple[float, ...]
    trend: Trend

    @property
    def full(self) -> bool:
        """Whether a batch is the whole training set."""
        return self.setting.batch_size >= self.num_train

    @property
    def name(self) -> str:
        """Optimizer and momentum."""
        return self.setting.optimizer + (f" {self.setting.momentum:g}" if self.setting.momentum else "")


def plateaus(results: Results) -> list[Plateau]:
    """Every setting that was run, gathered over its seeds."""
    gathered: dict[Setting, list[tuple[int, int, Mapping[str, Any]]]] = {}
    for name, found in results.items():
        if name.startswith("plateau/"):
            for series in found["series"]:
                setting = from_plain(Setting, series["setting"])
                entry = (int(found["arguments"]["seed"]), int(found["arguments"]["num_train"]), series)
                gathered.setdefault(setting, []).append(entry)
    return [_plateau(setting, entries) for setting, entries in gathered.items()]


def _plateau(setting: Setting, entries: Sequence[tuple[int, int, Mapping[str, Any]]]) -> Plateau:
    steps = tuple(float(point["step"]) for point in entries[0][2]["points"])
    kept = [
        (seed, tuple(float(point["value"]) for point in series["points"]), float(series["sharpness"]))
        for seed, _, series in entries
    ]
    kept = [each for each in kept if math.isfinite(each[1][-1])]
    tail, long_tail = max(1, round(LAST * len(steps))), max(3, round(TREND * len(steps)))
    curves = tuple(curve for _, curve, _ in kept)
    mean = np.mean(curves, axis=0) if curves else np.full(len(steps), math.nan)
    return Plateau(
        setting=setting,
        num_train=entries[0][1],
        seeds=tuple(seed for seed, _, _ in kept),
        num_diverged=len(entries) - len(kept),
        levels=tuple(float(np.mean(curve[-tail:])) for curve in curves),
        steps=steps,
        curves=curves,
        sharpness=tuple(value for _, _, value in kept),
        trend=trend(steps[-long_tail:], mean[-long_tail:].tolist()),
    )


def plateau_rows(found: Sequence[Plateau]) -> list[Row]:
    """One row a setting, then the claims that compare settings."""
    return [*(_level_row(each) for each in found), *_share_rows(found), *_order_rows(found), *_suppression_rows(found)]


def _level_row(each: Plateau) -> Row:
    setting = each.setting
    low, high, claim = _band(each)
    finished = each.steps[-1] >= planned_steps(setting.batch_size)
    if each.full and finished:  # no sampling of batches, so every run is judged by itself
        measured, verdict = judge_each(each.levels, low, high)
    else:
        measured, verdict = judge(each.levels, low, high, trend=each.trend, finished=finished)
    notes = [f"{each.steps[-1]:,.0f} of {planned_steps(setting.batch_size):,} steps"] if not finished else []
    notes += [each.trend.words] if not each.full or verdict == "not there yet" else []
    if each.num_diverged:
        notes.append(f"{each.num_diverged} of {each.num_diverged + len(each.seeds)} runs diverged and are left out")
        # What diverged did not settle, so the runs that did cannot stand for all.
        verdict = "does not hold" if not each.levels else "not resolved" if verdict == "holds" else verdict
    size = "full batch" if each.full else f"b={setting.batch_size}"
    printed = PRINTED.get((setting.optimizer, setting.momentum), {}) if each.num_train == 512 else {}
    return Row(
        what=f"{each.name}, {size}: batch sharpness",
        group=GROUP,
        claim=claim,
        published=printed.get(setting.batch_size),
        measured=measured,
        seeds=each.seeds,
        low=low,
        high=high,
        verdict=verdict,
        note="; ".join(notes),
    )


def planned_steps(batch_size: int) -> int:
    """Steps of the specification's runs: 6,000, and twice that below batch size 16."""
    return 12_000 if batch_size < 16 else 6_000


def _band(each: Plateau) -> tuple[float, float, str]:
    """What passes: the thresholds at either end of the batch sizes, and between them in between."""
    setting = each.setting
    if each.full:
        return (
            0.99 * setting.high,
            1.01 * setting.high,
            f"full-batch threshold {setting.high:.4g} to 1 %, in every seed",
        )
    if setting.momentum == 0:
        return 0.9 * setting.low, 1.1 * setting.low, f"2/lr = {setting.low:.4g} at any batch size, to 10 %"
    if setting.batch_size == 4:
        if setting.momentum <= 0.5:
            return 0.9 * setting.low, 1.1 * setting.low, f"small-batch threshold {setting.low:.4g} to 10 %"
        return setting.low, 1.5 * setting.low, f"1.0 to 1.5 times the small-batch threshold {setting.low:.4g}"
    low, high = sorted((setting.low, setting.high))
    return low, high, f"between the thresholds {low:.4g} and {high:.4g}"


def _share_rows(found: Sequence[Plateau]) -> list[Row]:
    """Nesterov is near its large-batch level where heavy ball is still far from its own."""
    rows = []
    for each in found:
        setting = each.setting
        if (setting.batch_size, setting.momentum) != (64, 0.8) or each.full or not each.levels:
            continue
        shares = [level / setting.high for level in each.levels]
        low, high = (0.6, math.inf) if setting.nesterov else (0.0, 0.3)
        measured, verdict = judge(shares, low, high)
        rows.append(
            Row(
                what=f"{each.name}, b=64: share of its own large-batch threshold",
                group=GROUP,
                claim="Nesterov reaches its large-batch level at a smaller batch than heavy ball",
                published=(9.2 / 13.84) if setting.nesterov else 7.8 / 36,
                measured=measured,
                seeds=each.seeds,
                low=low,
                high=high,
                verdict=verdict,
            )
        )
    return rows


def _order_rows(found: Sequence[Plateau]) -> list[Row]:
    """With momentum the plateau rises from the small-batch to the large-batch threshold."""
    rows = []
    for name in dict.fromkeys(each.name for each in found if each.setting.momentum):
        same = sorted(
            (each for each in found if each.name == name and each.levels), key=lambda each: each.setting.batch_size
        )
        if len(same) < 3:
            continue
        means = [float(np.mean(each.levels)) for each in same]
        rises = sum(after > before for before, after in pairwise(means))
        total = len(means) - 1
        measured, verdict = judge([float(rises)], float(total), float(total))
        unsettled = [each.setting.batch_size for each in same if _level_row(each).verdict == "not there yet"]
        if verdict == "does not hold" and unsettled:
            verdict = "not there yet"  # a plateau that is still rising contradicts nothing
        rows.append(
            Row(
                what=f"{name}: rises from one batch size to the next, of {total}",
                group=GROUP,
                claim="a monotone transition between the thresholds",
                published=float(total),
                measured=measured,
                seeds=same[0].seeds,
                low=float(total),
                high=float(total),
                verdict=verdict,
                note=" < ".join(f"{mean:.3g}" for mean in means)
                if rises == total
                else ", ".join(f"{mean:.3g}" for mean in means),
            )
        )
    return rows


def _suppression_rows(found: Sequence[Plateau]) -> list[Row]:
    """At small batch the largest eigenvalue stays below batch sharpness."""
    rows = []
    for each in found:
        if each.setting.batch_size == 4 and not each.full and each.levels:
            ratios = [value / level for value, level in zip(each.sharpness, each.levels, strict=True)]
            measured, verdict = judge_each(ratios, 0.0, 1.0)
            rows.append(
                Row(
                    what=f"{each.name}, b=4: largest Hessian eigenvalue over batch sharpness",
                    group=GROUP,
                    claim="at small batch the largest eigenvalue is held below batch sharpness (every seed)",
                    published=None,
                    measured=measured,
                    seeds=each.seeds,
                    low=0.0,
                    high=1.0,
                    verdict=verdict,
                )
            )
    return rows


def plateau_figure(found: Sequence[Plateau]) -> StudyFigure | None:
    """Plateaus over batch size, with both thresholds of each momentum."""
    panels = []
    momenta = sorted({each.setting.momentum for each in found})
    for title, nesterov in (("heavy ball", False), ("Nesterov", True)):
        series, levels = [], []
        for momentum in momenta:
            colour = momenta.index(momentum)
            same = [
                each
                for each in found
                if each.setting.momentum == momentum and each.setting.nesterov == nesterov and each.levels
            ]
            same.sort(key=lambda each: each.setting.batch_size)
            if len(same) < 2:
                continue
            ends = [mean_interval(each.levels) for each in same]
            series.append(
                Series(
                    name=f"momentum {momentum:g}",
                    x=tuple(float(each.setting.batch_size) for each in same),
                    y=tuple(end.value for end in ends),
                    low=tuple(end.low if math.isfinite(end.low) and end.low > 0 else end.value for end in ends),
                    high=tuple(end.high if math.isfinite(end.high) else end.value for end in ends),
                    colour=colour,
                )
            )
            setting = same[0].setting
            if momentum == 0:
                levels.append(Level(y=setting.low, name="2/η", colour=colour))
            else:
                levels.append(Level(y=setting.low, name=f"2(1−β)/η, β={momentum:g}", colour=colour, dash=2))
                top = "2(1+β)/((1+2β)η)" if nesterov else "2(1+β)/η"
                levels.append(Level(y=setting.high, name=f"{top}, β={momentum:g}", colour=colour))
        if series:
            panels.append(
                Panel(
                    title=title,
                    x_name="batch size (the largest is the full batch)",
                    y_name="plateau of batch sharpness",
                    series=tuple(series),
                    levels=tuple(levels),
                    x_log=True,
                    y_log=True,
                )
            )
    if not panels:
        return None
    return StudyFigure(
        name="plateaus",
        title="Where batch sharpness settles, by batch size and momentum",
        caption="Mean over the seeds with its 95 % interval; dotted lines are the small-batch thresholds, dashed lines those of the "
        "full batch.",
        panels=tuple(panels),
        columns=2,
    )


def trajectory_figure(found: Sequence[Plateau]) -> StudyFigure | None:
    """Batch sharpness over training, one panel a batch size."""
    panels = []
    names = list(dict.fromkeys(each.name for each in found))
    for batch_size in sorted({each.setting.batch_size for each in found}):
        same = [each for each in found if each.setting.batch_size == batch_size and each.curves]
        if not same:
            continue
        full = same[0].full
        series = tuple(
            Series(
                name=each.name,
                x=each.steps,
                y=tuple(np.mean(each.curves, axis=0).tolist()),
                colour=names.index(each.name),
                markers=False,
            )
            for each in same
        )
        levels: dict[float, int] = {}
        for each in same:
            level = each.setting.high if full else each.setting.low
            levels.setdefault(round(level, 3), names.index(each.name))
        panels.append(
            Panel(
                title="full batch" if full else f"batch size {batch_size}",
                x_name="step",
                y_name="batch sharpness",
                series=series,
                levels=tuple(Level(y=y, name=f"{y:.3g}", colour=colour) for y, colour in levels.items()),
            )
        )
    if not panels:
        return None
    return StudyFigure(
        name="trajectories",
        title="Batch sharpness over training",
        caption="Mean over the seeds; dashed lines are the small-batch thresholds, in the last panel those of the full batch.",
        panels=tuple(panels),
        columns=3,
    )
