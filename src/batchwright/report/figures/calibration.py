"""The direct measurement of the critical batch size: loss after equally many examples against batch size."""

import math

from batchwright.core.statistics import student_quantile
from batchwright.report.figures.style import BLUE, Figure, batch_axis, mark_batch_size, new_plot
from batchwright.report.plan_records import PlanRecord
from batchwright.report.text import plural, with_span


def calibration_figure(plan: PlanRecord) -> Figure | None:
    """Losses of the branches; None where the plan was not calibrated."""
    found = plan.evidence.calibration
    if found is None or not found.batch_sizes or len(found.batch_sizes) != len(found.losses):
        return None
    errors = found.standard_errors if len(found.standard_errors) == len(found.losses) else ()
    quantile = student_quantile(0.95, float(found.num_seeds - 1))
    halves = [quantile * error if math.isfinite(quantile * error) else 0.0 for error in errors]
    plot = new_plot()
    plot.add_scatter(
        x=found.batch_sizes,
        y=found.losses,
        error_y={"type": "data", "array": halves, "thickness": 1.5} if halves else None,
        mode="lines+markers",
        name="loss",
        line={"color": BLUE, "width": 2},
        marker={"size": 9},
        showlegend=False,
        hovertemplate="batch size %{x}<br>loss %{y:.4g}<extra></extra>",
    )
    critical = found.critical_batch_size
    name = f"critical {with_span(critical)}"
    mark_batch_size(plot, critical.value, name, low=critical.low, high=critical.high)
    mark_batch_size(plot, float(plan.batch_size), f"plan {plan.batch_size:,}")
    plot.update_xaxes(**batch_axis([*found.batch_sizes, float(plan.batch_size), critical.value]))
    plot.update_yaxes(title_text="loss", nticks=6)
    harmless = found.largest_harmless
    within = (
        ""
        if harmless is None
        else f" Up to {with_span(harmless)} the loss is not worse than that of {found.batch_sizes[0]:,} by more than a tenth of what "
        "that size gained."
    )
    return Figure(
        name="calibration",
        title="Loss after equally many examples",
        caption="Each point trains on from the pilot's checkpoint over the same examples: where the loss begins to rise, a larger "
        f"batch wastes examples (bars are 95 % intervals over {plural(found.num_seeds, 'seed')}).{within}",
        plot=plot,
        height=360,
    )
