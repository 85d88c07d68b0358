"""Figures of the study, as data."""

from batchwright.core.study_record import Panel, Series, StudyFigure
from batchwright.studies.conditional_gradient.rows import Results, best_of, toy_cells
from batchwright.studies.conditional_gradient.rule import BATCH_SIZES, LOSSES, STEP_SIZES


def bound_figure(results: Results) -> StudyFigure | None:
    """The bound at its best parameters against batch size."""
    found = results.get("bound")
    if found is None:
        return None
    series = tuple(
        Series(name=f"T = 1e{exponent}", x=tuple(sizes), y=tuple(errors), colour=index, markers=False)
        for index, (exponent, sizes, errors) in enumerate(
            zip(found["arguments"]["exponents"], found["batch_sizes"], found["errors"], strict=True)
        )
    )
    return StudyFigure(
        name="bound",
        title="The convergence bound at its best step size, radius and momentum",
        caption="All constants are one. It falls, stays and rises: noise, flat, too few steps. The right end of the flat part moves as "
        "the power 2/3 of the tokens.",
        panels=(
            Panel(
                title="", x_name="tokens in a step", y_name="bound on the error", series=series, x_log=True, y_log=True
            ),
        ),
    )


def toy_figure(results: Results) -> StudyFigure | None:
    """Least error, best step constant and best momentum weight of the simulation against batch size."""
    cells = sorted(toy_cells(results).items())
    if not cells:
        return None
    panels = []
    names = ("error at the best settings", "step size times steps, c", "momentum weight")
    for index, name in enumerate(names):
        series = tuple(
            Series(
                name=f"T = 2^{power}",
                x=tuple(map(float, sizes)),
                y=tuple(map(float, best_of(errors)[index])),
                colour=number,
            )
            for number, (power, (sizes, errors)) in enumerate(cells)
        )
        panels.append(Panel(title="", x_name="batch size", y_name=name, series=series, x_log=True, y_log=True))
    return StudyFigure(
        name="simulation",
        title="Simulated conditional gradient on a smooth cone",
        caption="Left the least error over step size and momentum, a U at each budget; then what gives it: the step size stays "
        "a multiple of one over the number of steps, the momentum weight grows with the batch.",
        panels=tuple(panels),
        columns=3,
    )


def table_figure(results: Results) -> StudyFigure | None:
    """The published losses."""
    if "table" not in results:
        return None
    series = tuple(
        Series(name=f"step size {size:g}e-4", x=tuple(map(float, BATCH_SIZES)), y=row, colour=index)
        for index, (size, row) in enumerate(zip(STEP_SIZES, LOSSES, strict=True))
    )
    return StudyFigure(
        name="published",
        title="Published: validation loss of the 124M model at 1.3B tokens",
        caption="Not computed here: the paper's table, from which the shape is read.",
        panels=(
            Panel(
                title="",
                x_name="batch size (sequences of 1,024)",
                y_name="validation loss (nats)",
                series=series,
                x_log=True,
            ),
        ),
    )
