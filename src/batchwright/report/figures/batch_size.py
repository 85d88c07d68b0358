"""Batch size over the runs that changed it, with the reason of each change."""

from collections import Counter
from collections.abc import Sequence

from batchwright.report.figures.style import Figure, batch_axis, colour_of, dash_of, inert, inert_lines, new_plot
from batchwright.report.run_records import RunRecords
from batchwright.report.text import count, estimate, natural_key

MAX_RUNS = 12


def batch_size_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Batch size against examples; None where no run changed it."""
    adaptive = sorted((run for run in runs if run.decisions), key=lambda run: (natural_key(run.label), run.seed))
    if not adaptive:
        return None
    # First one seed of each label, then the next of each.
    seen: Counter[str] = Counter()
    places = []
    for run in adaptive:
        places.append(seen[run.label])
        seen[run.label] += 1
    chosen = sorted(range(len(adaptive)), key=lambda i: places[i])[:MAX_RUNS]
    drawn = [adaptive[i] for i in sorted(chosen)]
    labels = list(dict.fromkeys(run.label for run in drawn))
    plot = new_plot()
    for run in drawn:
        index = labels.index(run.label)
        first = next(other for other in drawn if other.label == run.label) is run
        end = max(run.num_examples, run.decisions[-1].num_examples)
        plot.add_scatter(
            x=[0.0, *(decision.num_examples for decision in run.decisions), end],
            y=[run.batch_size, *(decision.batch_size for decision in run.decisions), run.decisions[-1].batch_size],
            mode="lines",
            name=inert(run.label),
            legendgroup=inert(run.label),
            showlegend=first,
            line={"color": colour_of(index), "width": 2.5 if first else 1.2, "shape": "hv", "dash": dash_of(index)},
            hoverinfo="skip",
        )
        plot.add_scatter(
            x=[decision.num_examples for decision in run.decisions],
            y=[decision.batch_size for decision in run.decisions],
            mode="markers",
            name=inert(run.label),
            legendgroup=inert(run.label),
            showlegend=False,
            marker={"color": colour_of(index), "size": 8},
            text=[
                f"{inert(run.label)}, seed {run.seed}, {count(decision.num_examples)} examples<br>"
                f"{count(decision.previous)} → {count(decision.batch_size)}, learning rate {estimate(decision.lr)}<br>"
                f"{inert_lines(decision.reason)}"
                for decision in run.decisions
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    sizes = [size for run in drawn for size in (run.batch_size, *(decision.batch_size for decision in run.decisions))]
    plot.update_xaxes(title_text="training examples", rangemode="tozero")
    plot.update_yaxes(**batch_axis(sizes))
    left_out = len(adaptive) - len(drawn)
    return Figure(
        name="batch-size",
        title="Batch size over the run",
        caption="Each dot is a decision to change the batch size; point at it for the reason.",
        plot=plot,
        notes=(f"{len(drawn)} of {len(adaptive)} runs that changed their batch size are drawn.",) if left_out else (),
        height=360,
    )
