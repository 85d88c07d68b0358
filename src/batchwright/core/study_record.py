"""What a study leaves behind: rows of published beside measured with their verdicts, figures as data, cost and environment.

The studies write it and the report reads it, so it stands where both may import it. It holds values alone; a figure is told by its
points and reference lines, and whoever draws it chooses the ink.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchwright.core.checks import check_choice
from batchwright.core.statistics import Interval

VERDICTS = ("holds", "does not hold", "not resolved", "not there yet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One claim of a paper beside what was measured.

    Attributes:
        what: The quantity and its setting.
        group: Rows of one group stand in one table.
        claim: What the paper, or the theory, says, in a sentence or a formula.
        published: The published or predicted number; None where the claim is not one number.
        measured: Mean over the seeds with its interval; infinitely wide for one run; None where nothing was measured.
        seeds: Seeds of the runs behind it.
        low: Lower end of what passes.
        high: Upper end of what passes.
        verdict: ``holds``, ``does not hold``, ``not resolved`` (the interval reaches beyond what passes) or ``not there yet``
            (the run ended before its plateau; the note gives the trend).
        note: Trend, or what a reader has to know.
    """

    what: str
    group: str
    claim: str
    published: float | None
    measured: Interval | None
    seeds: tuple[int, ...]
    low: float
    high: float
    verdict: str
    note: str = ""

    def __post_init__(self) -> None:
        check_choice("verdict", self.verdict, VERDICTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one colour in a figure.

    Attributes:
        name: In the legend.
        x: Places.
        y: Values; not finite where there is none, which breaks the line.
        low: Lower ends of the intervals; empty where there are none.
        high: Upper ends.
        colour: Number of the colour; series that belong together share it.
        dash: Number of the dash pattern.
        markers: Whether the points are marked.
        line: Whether the points are joined.
        legend: Whether the legend names it.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    colour: int = 0
    dash: int = 0
    markers: bool = True
    line: bool = True
    legend: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A horizontal reference line across a panel, with its name."""

    y: float
    name: str
    colour: int = -1
    dash: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above it; may be empty.
        x_name: Of the horizontal axis, with its unit.
        y_name: Of the vertical axis, with its unit.
        series: What is drawn.
        levels: Reference lines.
        x_log: Whether the horizontal axis is logarithmic.
        y_log: Whether the vertical axis is logarithmic.
        x_ticks: Names of the places 0, 1, 2, ... where the axis is one of names and not of numbers.
    """

    title: str
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    x_log: bool = False
    y_log: bool = False
    x_ticks: tuple[str, ...] = ()

    def names_at_left(self, level: Level) -> bool:
        """Whether the name of a reference line reads better at its left end: where the curves end farther from it."""

        def room(end: int) -> float:
            heights = [series.y[end] for series in self.series if series.y and math.isfinite(series.y[end])]
            if self.y_log:
                return min((abs(math.log(y / level.y)) for y in heights if y > 0 < level.y), default=math.inf)
            return min((abs(y - level.y) for y in heights), default=math.inf)

        return room(0) > room(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFigure:
    """A figure as data.

    Attributes:
        name: Of its files and anchors.
        title: What it shows.
        caption: How to read it.
        panels: In rows of ``columns``.
        columns: Panels in a row.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPicture:
    """A picture that is no plot, such as a grid of generated images.

    Attributes:
        name: Of its file and anchor.
        title: What it shows.
        caption: How it was made.
        png: The file, in base64.
        width: Pixels of the file.
        height: Pixels of the file.
    """

    name: str
    title: str
    caption: str
    png: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyCost:
    """What a study took.

    Attributes:
        seconds: Wall-clock seconds, those of earlier parts of a resumed study included.
        cpu_seconds: Processor seconds of its cells, over all workers.
        num_gradients: Gradients of single examples computed in training.
    """

    seconds: float
    cpu_seconds: float
    num_gradients: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRecord:
    """A study's summary, ``study.json``.

    Attributes:
        study: Its name on the command line.
        title: The paper.
        source: Where it was published.
        preset: ``smoke``, ``laptop`` or ``paper``.
        seed: The seed that every generator of the study was derived from.
        num_cells: Cells of the preset that are behind the rows, finished and failed, and how many there are in all.
        rows: Claims with their verdicts.
        figures: As data.
        notes: Sentences on deviations and on what was not reached.
        failures: One sentence a cell that failed.
        cost: What it took.
        environment: Versions and machine.
        pictures: Grids of images and the like.
        headline: ``what`` of the row on the paper's main claim; empty where no row is on it.
    """

    study: str
    title: str
    source: str
    preset: str
    seed: int
    num_cells: Mapping[str, int]
    rows: tuple[Row, ...]
    figures: tuple[StudyFigure, ...]
    notes: tuple[str, ...]
    failures: tuple[str, ...]
    cost: StudyCost
    environment: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[StudyPicture, ...] = ()
    headline: str = ""

    @property
    def verdicts(self) -> Mapping[str, int]:
        """How many rows have each verdict."""
        return {verdict: sum(row.verdict == verdict for row in self.rows) for verdict in VERDICTS}
