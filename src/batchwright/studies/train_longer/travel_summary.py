"""Rows and figures of the distances: log t or not, the loss as a random potential, and walks whose law is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchwright.core.study_record import Panel, Row, Series, StudyFigure
from batchwright.studies.train_longer.presets import NUM_UPDATES, TRAVELS, WALK_STEPS, travel_name
from batchwright.studies.verdict import judge, judge_each

Results = Mapping[str, Mapping[str, Any]]

GROUP, WALKS, POTENTIAL = "Distance from the beginning", "Walks whose law is known", "The loss as a random potential"
# The specification's own runs: R^2 of log t and of sqrt t.
PRINTED = {
    (32, True, 0.0): (0.989, 0.837),
    (32, False, 0.0): (0.984, 0.815),
    (128, True, 0.0): (0.67, 0.38),
    (512, True, 0.0): (0.55, 0.28),
    (16, True, 0.5): (0.798, 0.977),
}
TENTH_STEP = {32: 1.8, 128: 2.6, 512: 3.8}


def _title(batch_size: int, scaled: bool, label_noise: float) -> str:
    words = f"B = {batch_size}"
    words += "" if scaled else ", lr not scaled"
    return words + (", half of the labels drawn anew" if label_noise else "")


def _cells(results: Results, key: tuple[int, bool, float]) -> list[Mapping[str, Any]]:
    return [found for name, found in results.items() if name.startswith(f"travel/{travel_name(*key)}/")]


def _r_squared(cell: Mapping[str, Any], law: str) -> float:
    return float(cell["laws"][law]["r_squared"])


def travel_rows(preset: str, results: Results) -> list[Row]:
    """R squared of the laws, and whether curves of several batch sizes are one."""
    rows = []
    finished = NUM_UPDATES.get(preset, 0) >= NUM_UPDATES["laptop"]
    for key in TRAVELS:
        cells = _cells(results, key)
        if not cells:
            continue
        log = [_r_squared(cell, "log") for cell in cells]
        more = [a - _r_squared(cell, "square-root") for a, cell in zip(log, cells, strict=True)]
        printed = PRINTED[key]
        note = "seed by seed: " + "; ".join(str(cell["told"]) for cell in cells[:2])
        for what, values, published, low, high, claim in (
            ("R² of log t", log, printed[0], 0.97, 1.0, "the distance grows as log t"),
            ("R² of log t less that of sqrt t", more, printed[0] - printed[1], 0.1, 1.0, "and not as sqrt t"),
        ):
            measured, verdict = judge(values, low, high, finished=finished)
            rows.append(
                Row(
                    what=f"{_title(*key)}: {what}",
                    group=GROUP,
                    claim=claim,
                    published=published,
                    measured=measured,
                    seeds=_seeds(cells),
                    low=low,
                    high=high,
                    verdict=verdict,
                    note=note if what == "R² of log t" else "",
                )
            )
    return [*rows, *_collapse(results), *_potential_rows(results)]


def _seeds(cells: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(int(cell["arguments"]["seed"]) for cell in cells)


def _collapse(results: Results) -> list[Row]:
    """The distance after ten updates at the largest over that at the smallest batch size, learning rates scaled by the root."""
    sizes = [key for key in TRAVELS if key[1] and not key[2]]
    found = {key[0]: [_at(cell, 10.0) for cell in _cells(results, key)] for key in sizes}
    if not all(found.values()):
        return []
    ratios = [max(row) / min(row) for row in zip(*found.values(), strict=False)]
    measured, verdict = judge(ratios, 1.0, 1.2)
    return [
        Row(
            what="distance after 10 updates: largest over smallest of three batch sizes",
            group=GROUP,
            claim="with the root rule the curves of all batch sizes collapse",
            published=TENTH_STEP[512] / TENTH_STEP[32],
            measured=measured,
            seeds=_seeds(_cells(results, sizes[0])),
            low=1.0,
            high=1.2,
            verdict=verdict,
            note=", ".join(f"B = {size}: {np.mean(values):.2f}" for size, values in found.items()),
        )
    ]


def _at(cell: Mapping[str, Any], step: float) -> float:
    return float(cell["distances"][[float(each) for each in cell["steps"]].index(step)])


def _potential_rows(results: Results) -> list[Row]:
    rows = []
    for key in (TRAVELS[0], TRAVELS[-1]):
        cells = _cells(results, key)
        if not cells:
            continue
        values = [float(cell["potential"]["alpha"]["value"]) for cell in cells]
        measured, verdict = judge(values, 1.8, 2.2)
        labels = "half of the labels drawn anew" if key[2] else "clean labels"
        radii = cells[0]["potential"]["radii"]
        rows.append(
            Row(
                what=f"alpha about the initial weights, {labels}",
                group=POTENTIAL,
                claim="the standard deviation of the loss over directions grows in proportion to the distance: alpha = 2",
                published=2.0,
                measured=measured,
                seeds=_seeds(cells),
                low=1.8,
                high=2.2,
                verdict=verdict,
                note=f"distances {radii[0]:g} to {radii[-1]:g}, {cells[0]['potential']['num_directions']} directions",
            )
        )
    return rows


def walk_rows(preset: str, results: Results) -> list[Row]:
    """Sinai's walk and a free one."""
    cells = [found for name, found in results.items() if name.startswith("walks/")]
    if not cells:
        return []
    finished = WALK_STEPS.get(preset, 0) >= WALK_STEPS["laptop"]
    steps = f"{WALK_STEPS.get(preset, 0):,} steps"
    rows = []
    for what, walk, law, name, published, low, high, claim in (
        ("exponent of log t", "sinai", "log-power", "exponent", 1.80, 1.6, 2.1, "d ~ (log t)^(2/alpha), alpha = 1"),
        ("R² of that law", "sinai", "log-power", "r_squared", 0.999, 0.99, 1.0, "at least .99"),
        ("exponent of t", "free", "power", "exponent", 0.5, 0.45, 0.55, "d ~ sqrt t"),
    ):
        values = [cell[walk]["laws"][law][name] for cell in cells]
        numbers = [float(value["value"] if name == "exponent" else value) for value in values]
        measured, verdict = judge_each(numbers, low, high)
        if verdict == "does not hold" and not finished:
            verdict = "not there yet"
        rows.append(
            Row(
                what=f"{'Sinai walk' if walk == 'sinai' else 'free walk'}, {what}",
                group=WALKS,
                claim=claim + ", in every seed",
                published=published,
                measured=measured,
                seeds=_seeds(cells),
                low=low,
                high=high,
                verdict=verdict,
                note=f"{steps}; last distance {np.mean([cell[walk]['distances'][-1] for cell in cells]):.0f}",
            )
        )
    return rows


def distance_figure(results: Results) -> StudyFigure | None:
    """Distances against log t: networks, and walks."""
    series = []
    for colour, key in enumerate(TRAVELS):
        cells = _cells(results, key)
        if cells:
            series.append(
                Series(
                    name=_title(*key),
                    x=tuple(float(step) for step in cells[0]["steps"]),
                    y=tuple(float(d) for d in np.mean([cell["distances"] for cell in cells], axis=0)),
                    colour=colour,
                    markers=False,
                )
            )
    walks = [found for name, found in results.items() if name.startswith("walks/")]
    if not series or not walks:
        return None
    steps = [float(step) for step in walks[0]["steps"]]
    drawn = [
        Series(
            name=name,
            x=tuple(steps),
            y=tuple(float(d) for d in np.mean([cell[walk]["distances"] for cell in walks], axis=0)),
            colour=5,
            dash=dash,
            markers=False,
        )
        for dash, (walk, name) in enumerate((("sinai", "walk in a Brownian potential"), ("free", "free walk")))
    ]
    return StudyFigure(
        name="distances",
        title="Distance from the beginning against the number of steps",
        caption="On this axis a straight line is log t. Mean over seeds; the learning rate is constant.",
        panels=(
            Panel(title="digits perceptron", x_name="update", y_name="distance", series=tuple(series), x_log=True),
            Panel(
                title="walks on a line", x_name="step", y_name="distance", series=tuple(drawn), x_log=True, y_log=True
            ),
        ),
        columns=2,
    )


def potential_figure(results: Results) -> StudyFigure | None:
    """Standard deviation of the loss over directions against the distance."""
    series = []
    for colour, (key, name) in enumerate(
        ((TRAVELS[0], "clean labels"), (TRAVELS[-1], "half of the labels drawn anew"))
    ):
        cells = _cells(results, key)
        if not cells:
            continue
        potential = cells[0]["potential"]
        series.append(
            Series(
                name=name,
                x=tuple(float(radius) for radius in potential["radii"]),
                y=tuple(float(each["value"]) for each in potential["deviations"]),
                low=tuple(float(each["low"]) for each in potential["deviations"]),
                high=tuple(float(each["high"]) for each in potential["deviations"]),
                colour=colour,
            )
        )
    if not series:
        return None
    radii = series[0].x
    straight = Series(
        name="in proportion to the distance (alpha = 2)",
        x=radii,
        y=tuple(series[0].y[0] * radius / radii[0] for radius in radii),
        colour=2,
        dash=1,
        markers=False,
    )
    return StudyFigure(
        name="potential",
        title="Scatter of the loss over random directions about the initial weights",
        caption="Standard deviation over directions with its 95 % interval, one seed; the dashed line is alpha = 2.",
        panels=(
            Panel(
                title="digits perceptron",
                x_name="distance from the initial weights",
                y_name="standard deviation of the loss",
                series=(*series, straight),
                x_log=True,
                y_log=True,
            ),
        ),
    )
