"""Rows and figure of the catapult test: who spikes, where batch sharpness settles again, and whether it was foretold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval
from batchwright.core.study_record import Level, Panel, Row, Series, StudyFigure
from batchwright.studies.eoss.interventions import BASE
from batchwright.studies.eoss.predictions import Foretold, foretell
from batchwright.studies.eoss.settings import Setting
from batchwright.studies.verdict import judge, judge_each

Results = Mapping[str, Mapping[str, Any]]

SPIKE, CALM = 5.0, 1.2
# Whether a drawn change spiked is a yes or no, so the line is drawn once, midway between the two on a logarithmic scale.
# Before the plateau is reached a change has less to spike from, so a shorter run can only confirm.
PLANNED_STEPS = 10_000
DIVIDE = math.sqrt(SPIKE * CALM)
# Largest loss over the baseline's 0.041, from the specification's runs: middles of its ranges.
PRINTED = {"lr 0.15": 0.35 / 0.041, "lr 0.2": 1.1 / 0.041, "batch 2": 1.05 / 0.041, "momentum 0.8": math.inf}
PRINTED_CALM = 0.03 / 0.041
# Batch sharpness after 3,600 steps, middles of the printed ranges.
PRINTED_SETTLED = {"lr 0.15": 7.05, "lr 0.2": 6.05, "batch 2": 11.2}
SETTLED_BAND = (0.9, 1.35)
MAX_POINTS = 150


def catapult_rows(results: Results) -> list[Row]:
    """The checkpoint, each intervention, the levels after it, and the predictions."""
    seeds = _seeds(results)
    if not seeds:
        return []
    rows = [
        _checkpoint_row(results, seeds),
        *_spike_rows(results, seeds),
        *_settled_rows(results, seeds),
        *prediction_rows(results, seeds),
    ]
    done = int(results[f"catapult/checkpoint/seed-{seeds[0]}"]["arguments"]["num_steps"])
    return rows if done >= PLANNED_STEPS else [_early(row, done) for row in rows]


def _early(row: Row, done: int) -> Row:
    """The row of a checkpoint before the plateau: what fails there is not there yet."""
    note = f"checkpoint after {done:,} of {PLANNED_STEPS:,} steps" + (f"; {row.note}" if row.note else "")
    return replace(row, note=note, verdict=row.verdict if row.verdict == "holds" else "not there yet")


def ratios(results: Results, seeds: Sequence[int]) -> dict[str, tuple[str, Setting, list[float]]]:
    """By intervention: its kind, its setting, and its largest loss over that of the unchanged continuation, one a seed."""
    found: dict[str, tuple[str, Setting, list[float]]] = {}
    for seed in seeds:
        entries = results[f"catapult/continuations/seed-{seed}"]["continuations"]
        baseline = next(float(entry["max_loss"]) for entry in entries if entry["kind"] == "baseline")
        for entry in entries:
            if entry["kind"] != "baseline":
                place = found.setdefault(entry["name"], (entry["kind"], from_plain(Setting, entry["setting"]), []))
                place[2].append(float(entry["max_loss"]) / baseline)
    return found


def _seeds(results: Results) -> list[int]:
    stem = "catapult/continuations/seed-"
    return sorted(int(name.removeprefix(stem)) for name in results if name.startswith(stem))


def _checkpoint_row(results: Results, seeds: Sequence[int]) -> Row:
    values = [float(results[f"catapult/checkpoint/seed-{seed}"]["batch_sharpness"]["value"]) for seed in seeds]
    low, high = 0.85 * BASE.low, 1.15 * BASE.low
    measured, verdict = judge(values, low, high)
    return Row(
        what="batch sharpness at the checkpoint",
        group="Catapult",
        claim="at the small-batch threshold 10; one measurement, so to 15 %",
        published=9.4,
        measured=measured,
        seeds=tuple(seeds),
        low=low,
        high=high,
        verdict=verdict,
    )


def _spike_rows(results: Results, seeds: Sequence[int]) -> list[Row]:
    rows = []
    for name, (kind, _, values) in ratios(results, seeds).items():
        if kind == "drawn":
            continue
        spikes = kind == "destabilising"
        low, high = (SPIKE, math.inf) if spikes else (0.0, CALM)
        measured, verdict = judge_each(values, low, high)
        rows.append(
            Row(
                what=f"{name}: largest loss over the unchanged run's",
                group="Catapult",
                claim=f"{kind}: {'above 5' if spikes else 'below 1.2'} in every seed",
                published=PRINTED[name] if spikes else PRINTED_CALM,
                measured=measured,
                seeds=tuple(seeds),
                low=low,
                high=high,
                verdict=verdict,
                note="each seed: " + ", ".join("diverged" if math.isinf(value) else f"{value:.2f}" for value in values),
            )
        )
    return rows


def _settled_rows(results: Results, seeds: Sequence[int]) -> list[Row]:
    rows = []
    for name, printed in PRINTED_SETTLED.items():
        values = []
        level = math.nan
        for seed in seeds:
            entries = results[f"catapult/continuations/seed-{seed}"]["continuations"]
            entry = next(entry for entry in entries if entry["name"] == name)
            level = from_plain(Setting, entry["setting"]).low
            values.append(float(np.mean([float(point["value"]) for point in entry["settled"]])))
        low, high = SETTLED_BAND[0] * level, SETTLED_BAND[1] * level
        lost = [seed for seed, value in zip(seeds, values, strict=True) if not math.isfinite(value)]
        measured, verdict = judge([value for value in values if math.isfinite(value)], low, high)
        # A run that diverged has not settled, whatever the others did.
        verdict = "does not hold" if lost else verdict
        rows.append(
            Row(
                what=f"{name}: batch sharpness in the last fifth of the continuation",
                group="Catapult",
                claim=f"settles again near its new threshold {level:.3g} (0.9 to 1.35 times)",
                published=printed,
                measured=measured,
                seeds=tuple(seeds),
                low=low,
                high=high,
                verdict=verdict,
                note=f"diverged after the spike: seed {', '.join(map(str, lost))}; measured in the others"
                if lost
                else "",
            )
        )
    return rows


def prediction_rows(results: Results, seeds: Sequence[int]) -> list[Row]:
    """How many interventions were foretold rightly, over all seeds: the published ones, and those drawn."""
    rows = []
    for title, drawn in (("the published interventions", False), ("the drawn interventions", True)):
        told = [each for each in foretold(results, seeds) if (each.kind == "drawn") == drawn]
        if not told:
            continue
        right = sum(each.spiked == each.predicted for each in told)
        table = {
            (predicted, spiked): sum(each.predicted == predicted and each.spiked == spiked for each in told)
            for predicted in (True, False)
            for spiked in (True, False)
        }
        wrong = [f"{each.name} (seed {each.seed}: {each.ratio:.2f})" for each in told if each.spiked != each.predicted]
        note = (
            f"spike foretold: {table[True, True]} spiked, {table[True, False]} did not; "
            f"safe foretold: {table[False, True]} spiked, {table[False, False]} did not"
        )
        rows.append(
            Row(
                what=f"spike or none foretold at the checkpoint for {title}, of {len(told)}",
                group="Prediction",
                claim=f"every sign is right; a spike is a largest loss above {DIVIDE:.2f} times the unchanged run's",
                published=None,
                measured=Interval(value=float(right), low=float(right), high=float(right)),
                seeds=tuple(seeds),
                low=float(len(told)),
                high=float(len(told)),
                verdict="holds" if right == len(told) else "does not hold",
                note=note + (f"; wrong: {', '.join(wrong)}" if wrong else ""),
            )
        )
    return rows


def foretold(results: Results, seeds: Sequence[int]) -> list[Foretold]:
    """Every intervention of every seed with its prediction, from what was measured at the checkpoint alone."""
    found = []
    for name, (kind, setting, values) in ratios(results, seeds).items():
        for seed, value in zip(seeds, values, strict=True):
            checkpoint = results[f"catapult/checkpoint/seed-{seed}"]
            found.append(foretell(checkpoint, name, kind, setting, seed, value, DIVIDE))
    return found


def matrix_figure(results: Results) -> StudyFigure | None:
    """Losses around each published intervention, of the first seed."""
    seeds = _seeds(results)
    if not seeds:
        return None
    first = seeds[0]
    entries = results[f"catapult/continuations/seed-{first}"]["continuations"]
    before = [float(value) for value in results[f"catapult/checkpoint/seed-{first}"]["before"]]
    base = next(entry for entry in entries if entry["kind"] == "baseline")
    told = {each.name: each for each in foretold(results, [first])}
    x_base, y_base = _curve(before, base["losses"])
    panels = []
    for entry in entries:
        if entry["kind"] not in ("destabilising", "stabilising"):
            continue
        x, y = _curve(before, entry["losses"])
        word = "spike foretold" if told[entry["name"]].predicted else "none foretold"
        shown = "diverged" if math.isinf(told[entry["name"]].ratio) else f"{told[entry['name']].ratio:.2g}x"
        panels.append(
            Panel(
                title=f"{entry['name']}: {word}, {shown}",
                x_name="steps after the change",
                y_name="training loss",
                series=(
                    Series(name="unchanged", x=x_base, y=y_base, colour=0, markers=False),
                    Series(name="changed", x=x, y=y, colour=3, markers=False),
                ),
                levels=(
                    Level(y=SPIKE * float(base["max_loss"]), name="5x"),
                    Level(y=CALM * float(base["max_loss"]), name="1.2x", dash=2),
                ),
                y_log=True,
            )
        )
    return StudyFigure(
        name="catapults",
        title="One change at the checkpoint: training loss around it",
        caption=f"Seed {first}. Each panel names the change, whether a spike was foretold, and its largest loss over that of the "
        "unchanged run, of which lines are 5 and 1.2 times. Above: destabilising changes; below: stabilising ones.",
        panels=tuple(panels),
        columns=4,
    )


def prediction_figure(results: Results) -> StudyFigure | None:
    """What was foretold against what came: each intervention and seed a point."""
    seeds = _seeds(results)
    told = foretold(results, seeds) if seeds else []
    if not told:
        return None
    finite = [each.ratio for each in told if math.isfinite(each.ratio)]
    top = 2 * max([*finite, 100.0])
    series = []
    for colour, (name, drawn) in enumerate((("published", False), ("drawn", True))):
        chosen = [each for each in told if (each.kind == "drawn") == drawn]
        series.append(
            Series(
                name=f"{name} interventions",
                x=tuple(each.load for each in chosen),
                y=tuple(min(each.ratio, top) for each in chosen),
                colour=(0, 3)[colour],
                dash=colour,
                line=False,
            )
        )
    return StudyFigure(
        name="predictions",
        title="Foretold at the checkpoint, and what came",
        caption=f"Each point is one change in one seed. Right of 1.1 the gauge says spike; above {DIVIDE:.2f} it was one. "
        "Runs that diverged stand at the top.",
        panels=(
            Panel(
                title="",
                x_name="predicted batch sharpness over its new threshold",
                y_name="largest loss over the unchanged run's",
                series=tuple(series),
                levels=(Level(y=DIVIDE, name="spike"), Level(y=1.0, name="unchanged", dash=2)),
                x_log=True,
                y_log=True,
            ),
        ),
    )


def _curve(before: Sequence[float], after: Sequence[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Losses before and after the change, thinned so that every peak stays; cut where they are no longer finite."""
    x = [float(step) for step in range(-len(before) + 1, len(after) + 1)]
    y = [*before, *(float(value) for value in after)]
    end = next((index for index, value in enumerate(y) if not math.isfinite(value) or value > 1e6), len(y))
    x, y = x[:end], y[:end]
    width = max(1, math.ceil(len(y) / MAX_POINTS))
    blocks = [range(start, min(start + width, len(y))) for start in range(0, len(y), width)]
    peaks = [max(block, key=lambda index: y[index]) for block in blocks]
    return tuple(x[index] for index in peaks), tuple(y[index] for index in peaks)
