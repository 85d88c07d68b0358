"""Figures of a study as files: the points as CSV and JSON, and pictures as PNG and SVG where matplotlib is installed."""

import base64
import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchwright.core.records import make_folder, write_atomically, write_json
from batchwright.core.study_record import Panel, Series, StudyFigure, StudyPicture

# Okabe & Ito (2008), without black and yellow.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
NEUTRAL = "#57606a"
DASHES = ("solid", "dashed", "dotted", "dashdot")


def write_figures(folder: Path, figures: Sequence[StudyFigure]) -> list[Path]:
    """Write each figure's data, and its pictures if matplotlib is there.

    Returns:
        The files written.
    """
    if not figures:
        return []
    make_folder(folder)
    paths = []
    for figure in figures:
        paths += [folder / f"{figure.name}.json", folder / f"{figure.name}.csv"]
        write_json(paths[-2], figure)
        write_atomically(paths[-1], _csv(figure))
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return paths
    for figure in figures:
        drawn = _draw(figure, Figure)
        FigureCanvasAgg(drawn)
        for suffix in ("png", "svg"):
            # Neither date nor random ids, so the same numbers give the same file.
            metadata = {"Date": None} if suffix == "svg" else {"Software": None}
            paths.append(folder / f"{figure.name}.{suffix}")
            with rc_context({"svg.hashsalt": figure.name}):
                drawn.savefig(paths[-1], dpi=144, metadata=metadata)
    return paths


def write_pictures(folder: Path, pictures: Sequence[StudyPicture]) -> list[Path]:
    """Write each picture as it is; the files written."""
    if pictures:
        make_folder(folder)
    paths = [folder / f"{picture.name}.png" for picture in pictures]
    for path, picture in zip(paths, pictures, strict=True):
        # A picture made twice is the same, so a file that a kill left half written is written anew.
        path.write_bytes(base64.b64decode(picture.png))
    return paths


def _csv(figure: StudyFigure) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["panel", "series", "x", "y", "low", "high"])
    for number, panel in enumerate(figure.panels):
        name = panel.title or str(number)
        for series in panel.series:
            ends = zip(series.low, series.high, strict=True) if series.low else ((None, None) for _ in series.x)
            for x, y, (low, high) in zip(series.x, series.y, ends, strict=True):
                writer.writerow([name, series.name, x, y, low, high])
        for level in panel.levels:
            writer.writerow([name, f"level: {level.name}", None, level.y, None, None])
    return text.getvalue()


def _draw(figure: StudyFigure, kind: Any) -> Any:
    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    drawn = kind(
        figsize=(1.2 + 4.3 * columns if columns > 1 else 7.6, 0.9 + 3.1 * rows if rows > 1 else 4.6),
        layout="constrained",
    )
    axes = drawn.subplots(rows, columns, squeeze=False)
    for index, axis in enumerate(axes.flat):
        if index < len(figure.panels):
            _draw_panel(axis, figure.panels[index])
        else:
            axis.axis("off")
    named: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    drawn.suptitle(figure.title, fontsize=11)
    if named:
        across = 4 if columns > 1 else 3
        drawn.legend(named.values(), named.keys(), loc="outside lower center", ncols=across, fontsize=8, frameon=False)
    return drawn


def _draw_panel(axis: Any, panel: Panel) -> None:
    for level in panel.levels:
        colour = NEUTRAL if level.colour < 0 else COLOURS[level.colour % len(COLOURS)]
        axis.axhline(level.y, color=colour, linewidth=1, linestyle=DASHES[level.dash % len(DASHES)], zorder=1)
        left = panel.names_at_left(level)
        axis.annotate(
            level.name,
            (0.01 if left else 1.0, level.y),
            xycoords=("axes fraction", "data"),
            fontsize=7,
            color=colour,
            ha="left" if left else "right",
            va="bottom",
        )
    for series in panel.series:
        _draw_series(axis, series)
    if panel.x_log:
        places = sorted({x for series in panel.series for x in series.x})
        # Beyond a million a power of two is no longer read at a glance.
        axis.set_xscale("log", base=2 if not places or places[-1] <= 1e6 else 10)
        if 0 < len(places) <= 9:
            axis.set_xticks(places, [f"{place:g}" for place in places])
            axis.minorticks_off()
        elif places and places[-1] <= 1e6:
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if panel.y_log:
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis, axis.get_ylim())
    if panel.x_ticks:
        axis.set_xticks(range(len(panel.x_ticks)), panel.x_ticks, fontsize=8, rotation=30, ha="right")
    axis.set_xlabel(panel.x_name, fontsize=9)
    axis.set_ylabel(panel.y_name, fontsize=9)
    axis.set_title(panel.title, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(True, color="#d8dee4", linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def _plain_ticks(axis: Any, limits: tuple[float, float]) -> None:
    """Ticks at 1, 2 and 5 where a logarithmic axis spans two decades or less; its numbers as they are."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if limits[1] <= 120 * limits[0]:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _draw_series(axis: Any, series: Series) -> None:
    colour = COLOURS[series.colour % len(COLOURS)]
    finite = [math.isfinite(y) for y in series.y]
    y = [value if good else math.nan for value, good in zip(series.y, finite, strict=True)]
    look = {
        "color": colour,
        "linestyle": DASHES[series.dash % len(DASHES)] if series.line else "none",
        "linewidth": 1.4,
        "marker": "os^D"[series.dash % 4] if series.markers else None,
        "markersize": 4,
        "label": series.name if series.legend else None,
    }
    if not series.low:
        axis.plot(series.x, y, **look)
        return
    reach = [
        [
            max(value - end, 0.0) if math.isfinite(end) and good else 0.0
            for value, end, good in zip(series.y, ends, finite, strict=True)
        ]
        for ends in (series.low, series.high)
    ]
    reach[1] = [
        max(end - value, 0.0) if math.isfinite(end) and good else 0.0
        for value, end, good in zip(series.y, series.high, finite, strict=True)
    ]
    axis.errorbar(series.x, y, yerr=reach, capsize=2, elinewidth=1, **look)
