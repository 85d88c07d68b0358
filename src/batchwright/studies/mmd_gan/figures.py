"""Figures of the study: scores of the digits by method and along the runs, distances of two Diracs, power, and grids of samples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from batchwright.core.statistics import mean_interval
from batchwright.core.study_record import Level, Panel, Series, StudyFigure, StudyPicture
from batchwright.studies.mmd_gan.arms import ARMS
from batchwright.studies.mmd_gan.grid import size_of_png
from batchwright.studies.mmd_gan.identities import dirac_suprema
from batchwright.studies.mmd_gan.presets import RUNS, Run
from batchwright.studies.mmd_gan.results import Results, curve, last_piece, seeds_of, values
from batchwright.studies.mmd_gan.two_sample import SHIFTS, binomial_error

CRITICS = {
    "clipped": "MMD, critics clipped at 1",
    "unbounded": "MMD, any critic",
    "scaled": "scaled MMD",
    "js": "Jensen-Shannon",
}
DEAD_KID = 1.0


def dirac_figure() -> StudyFigure:
    """Distance of two point masses over how far they lie apart: continuous at zero only where the critics are bounded."""
    thetas = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    found = [dirac_suprema(theta) for theta in thetas]
    return StudyFigure(
        name="diracs",
        title="Distance of two point masses",
        caption="Supremum over critics f(x) = ψx with one Gaussian of deviation 1. A distance that does not fall to zero with θ gives "
        "a generator no slope to follow.",
        panels=(
            Panel(
                title="",
                x_name="θ, how far apart",
                y_name="distance",
                series=tuple(
                    Series(
                        name=label,
                        x=tuple(thetas),
                        y=tuple(one[name] for one in found),
                        colour=index,
                        dash=index,
                        markers=False,
                    )
                    for index, (name, label) in enumerate(CRITICS.items())
                ),
                x_log=True,
                y_log=True,
            ),
        ),
    )


def power_figure(results: Results) -> StudyFigure | None:
    """Power of the permutation test beside the exact one of Hotelling's."""
    found = results.get("tests/power")
    if found is None:
        return None
    names = list(found["rejected"])
    num = found["num_repeats"]

    def measured(key: str, label: str, colour: int) -> Series:
        shares = [found["rejected"][name][key] for name in names]
        reach = [1.96 * binomial_error(share, num) for share in shares]
        return Series(
            name=label,
            x=tuple(float(place) for place in range(len(names))),
            y=tuple(shares),
            low=tuple(max(share - half, 0.0) for share, half in zip(shares, reach, strict=True)),
            high=tuple(min(share + half, 1.0) for share, half in zip(shares, reach, strict=True)),
            colour=colour,
            dash=colour,
            line=False,
        )

    return StudyFigure(
        name="power",
        title="Power at 5 %, 100 and 100 points in 5 dimensions",
        caption=f"{num} repeats with 95 % intervals. Hotelling's test is the best for a shift of the mean, and sees nothing else.",
        panels=(
            Panel(
                title="",
                x_name="how the laws differ",
                y_name="share rejected",
                series=(
                    measured("mmd", "MMD, permutations, kernel around the median distance", 0),
                    measured("hotelling", "Hotelling's T²", 1),
                    Series(
                        name="Hotelling's T², exact",
                        x=tuple(float(place) for place in range(len(SHIFTS))),
                        y=tuple(found["exact"][f"shift {size:g}"] for size in SHIFTS),
                        colour=1,
                        dash=1,
                        markers=False,
                    ),
                ),
                levels=(Level(y=0.05, name="level"),),
                x_ticks=tuple(names),
            ),
        ),
    )


def score_figure(results: Results, preset: str) -> StudyFigure | None:
    """Class score and KID of the digits at the end of the runs of each method and batch size."""
    names: list[str] = []
    columns: dict[str, list[list[float]]] = {"score": [], "kid": []}
    for arm, size, step in dict.fromkeys((run.arm, run.batch_size, run.num_steps) for run in _digits(preset)):
        found = {key: list(values(results, preset, arm, size, step, key).values()) for key in columns}
        # A dead critic's generator is so far off that no other difference would be seen.
        if found["score"] and max(found["kid"]) < DEAD_KID:
            names.append(f"{_short(arm)}, {size:,}, {step:,}")
            for key, column in columns.items():
                column.append(found[key])
    if not names:
        return None
    real = results.get("scorer/digits")
    return StudyFigure(
        name="digits",
        title="Digits: generated images under the study's classifier",
        caption="Method, batch size, generator steps. Points are seeds; bars are the mean with its 95 % interval. Runs with a KID "
        "above 1, of critics that a clip of 0.01 killed, are left out.",
        panels=tuple(
            Panel(
                title="",
                x_name="",
                y_name=name,
                series=_scatter(columns[key]),
                levels=(Level(y=real[key], name="real images"),) if real is not None else (),
                x_ticks=tuple(names),
            )
            for name, key in (("class score", "score"), ("KID", "kid"))
        ),
        columns=2,
    )


def curve_figure(results: Results, preset: str) -> StudyFigure | None:
    """Class score, loss and feature distance along the runs of the digits, seed 0 of each."""
    shown = [run for run in _digits(preset) if seeds_of(results, run)]
    runs = [run for run in shown if run.offset == 0 and run.batch_size in (64, 16, 256)]
    panels = []
    for key, name, log in (
        ("score", "class score", False),
        ("loss", "generator's loss, mean since the last point", False),
        ("feature_distance", "mean distance of the critic's features", True),
    ):
        series = []
        for index, run in enumerate(runs):
            marks = curve(results, run, min(seeds_of(results, run)))
            # A record writes what is not a number, as the distance where there is no critic, as a word.
            usable = [mark for mark in marks if math.isfinite(float(mark[key]))]
            if key == "loss" and ARMS[run.arm].options.get("loss") == "mmd-squared":
                continue  # another loss, on another scale
            if usable:
                series.append(
                    Series(
                        name=f"{_short(run.arm)}, batch {run.batch_size}",
                        x=tuple(float(mark["step"]) for mark in usable),
                        y=tuple(mark[key] for mark in usable),
                        colour=index,
                        dash=index // 6,
                        markers=False,
                    )
                )
        if series:
            panels.append(
                Panel(title="", x_name="generator steps", y_name=name, series=tuple(series), x_log=True, y_log=log)
            )
    if not panels:
        return None
    return StudyFigure(
        name="curves",
        title="Digits: along the runs",
        caption="First seed of each. Where features lie within 0.3 of each other the MMD of five Gaussians matches their means alone.",
        panels=tuple(panels),
        columns=3,
    )


def pictures(results: Results, preset: str) -> tuple[StudyPicture, ...]:
    """Real images of each kind, and samples of the first seed of each run at its last finished part."""
    found = []
    for data in dict.fromkeys(run.data for run in RUNS[preset]):
        real = results.get(f"scorer/{data}")
        if real is not None:
            found.append(_picture(f"{data}-real", f"{data}: real images", "Training images.", real))
        for run in RUNS[preset]:
            seeds = seeds_of(results, run)
            if run.data != data or not seeds or run.offset:
                continue
            piece = last_piece(results, run, seeds[0])
            if piece is not None:
                step = piece["curve"][-1]["step"]
                title = f"{data}: {ARMS[run.arm].label}, batch {run.batch_size:,}, {step:,} steps"
                caption = f"60 samples of seed {seeds[0]}, not chosen."
                found.append(_picture(f"{data}-{run.arm}-{run.batch_size}-{run.num_steps}", title, caption, piece))
    return tuple(found)


def _picture(name: str, title: str, caption: str, piece: Mapping[str, Any]) -> StudyPicture:
    width, height = size_of_png(piece["grid"])
    return StudyPicture(name=name, title=title, caption=caption, png=piece["grid"], width=width, height=height)


def _digits(preset: str) -> list[Run]:
    return [run for run in RUNS[preset] if run.data == "digits"]


def _short(arm: str) -> str:
    return {
        "mmd-gan": "MMD GAN",
        "no-hinge": "no hinge",
        "no-autoencoder": "no autoencoder",
        "clip-0.01": "clip 0.01",
        "penalty": "gradient penalty",
        "gmmn": "GMMN",
    }.get(arm, arm)


def _scatter(rows: Sequence[Sequence[float]]) -> tuple[Series, Series]:
    found = [mean_interval(row) for row in rows]
    return (
        Series(
            name="each seed",
            x=tuple(float(place) for place, row in enumerate(rows) for _ in row),
            y=tuple(number for row in rows for number in row),
            colour=5,
            line=False,
        ),
        Series(
            name="mean with its 95 % interval",
            x=tuple(float(place) for place in range(len(rows))),
            y=tuple(one.value for one in found),
            low=tuple(one.low if math.isfinite(one.low) else one.value for one in found),
            high=tuple(one.high if math.isfinite(one.high) else one.value for one in found),
            line=False,
        ),
    )
