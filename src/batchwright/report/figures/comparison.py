"""What each label took to reach the target, with the interval over its seeds."""

import math
from collections.abc import Sequence

from batchwright.report.figures.choice import choose_labels
from batchwright.report.figures.style import BLUE, NEUTRAL, Figure, View, inert, new_plot
from batchwright.report.run_records import RunRecords
from batchwright.report.tables import summarise
from batchwright.report.text import plural, seconds_with_span, with_span

MAX_LABELS = 30


def comparison_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Examples and seconds to target by label; None where fewer than two labels reached theirs."""
    labels = choose_labels(runs, MAX_LABELS)
    everything = {row.label: row for row in summarise(runs)}
    rows = [everything[label] for label in labels if everything[label].examples is not None]
    if len(rows) < 2:
        return None
    plot = new_plot()
    names = [inert(row.label, 28) + ("" if row.num_reached == row.num_runs else " *") for row in rows]
    places = list(range(len(rows)))  # two labels may be cut to the same text, so text cannot be the place
    for measure, write in (("examples", with_span), ("seconds", seconds_with_span)):
        intervals = [getattr(row, measure) for row in rows]
        reaches = [interval.high - interval.value if math.isfinite(interval.high) else 0.0 for interval in intervals]
        complete = [row.num_reached == row.num_runs for row in rows]
        plot.add_scatter(
            x=[interval.value for interval in intervals],
            y=places,
            error_x={"type": "data", "array": reaches, "thickness": 1.5, "color": NEUTRAL},
            mode="markers",
            name=measure,
            showlegend=False,
            visible=measure == "examples",
            marker={
                "size": 11,
                "color": BLUE,
                "symbol": ["circle" if whole else "circle-open" for whole in complete],
                "line": {"width": 2, "color": BLUE},
            },
            text=[
                f"{write(interval)}<br>{row.num_reached} of {plural(row.num_runs, 'run')} reached the target"
                for interval, row in zip(intervals, rows, strict=True)
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    plot.update_xaxes(title_text="training examples to target", rangemode="tozero")
    plot.update_yaxes(tickvals=places, ticktext=names, range=[len(rows) - 0.4, -0.6], automargin=True, zeroline=False)
    cut = len(everything) > len(labels)
    return Figure(
        name="comparison",
        title="What reaching the target took",
        caption="Further left is cheaper: a dot is the mean over the seeds of a label and its bar the 95 % interval; an open dot "
        "with a star is over those runs alone that got there.",
        plot=plot,
        views=(
            View(name="examples", visible=(True, False), layout={"xaxis.title.text": "training examples to target"}),
            View(name="seconds", visible=(False, True), layout={"xaxis.title.text": "seconds of training to target"}),
        ),
        notes=(f"{len(labels)} of {len(everything)} labels are drawn, those that reached it with fewest examples.",)
        if cut
        else (),
        height=150 + (34 if len(rows) <= 12 else 20) * len(rows),
        wide=len(rows) > 12,
    )
