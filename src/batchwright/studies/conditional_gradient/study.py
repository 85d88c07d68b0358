"""The study of Islamov et al. (2026): its cells, and what they say of the paper.

Source: R. Islamov, R. Machacek, A. Lucchi, A. Silveti-Falls, E. Gorbunov, V. Cevher, On the Role of Batch Size in Stochastic
Conditional Gradient Methods, arXiv:2603.21191.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.studies.conditional_gradient.curves import whole_seeds
from batchwright.studies.conditional_gradient.figures import bound_figure, table_figure, toy_figure
from batchwright.studies.conditional_gradient.language_figures import grid_figure, language_figure
from batchwright.studies.conditional_gradient.language_rows import (
    LANGUAGE,
    WHO,
    batch_rows,
    constant_rows,
    schedule_rows,
    step_rows,
    u_rows,
)
from batchwright.studies.conditional_gradient.nanogpt_grid import NANOGPT, NANOGPT_WHO, published_rows
from batchwright.studies.conditional_gradient.presets import cells
from batchwright.studies.conditional_gradient.rows import bound_rows, rule_rows, table_rows, toy_rows
from batchwright.studies.study import Study, Summary, there

NOTES = (
    "The simulation is easier than the worst case of the bound: its error falls about as 1/T, so the exponents -1/3 and 2/3 are "
    "looked for in the bound alone.",
    "In the simulation all settings of a repeat see the same noise; the best setting is that of the mean over the repeats.",
)
LANGUAGE_NOTES = (
    "One layer of char-gpt, width 32, sequences of 16 characters of tiny Shakespeare; momentum weight 0.1, radii 3000 and 50, the step "
    "size falls over the last 28 % of the tokens. All runs of a seed see the same sequences.",
    "Slopes are least squares over all seeds, with the Student interval of the scatter about the line.",
)
PAPER_NOTE = (
    "The paper preset needs a GPU, and FineWeb as token files in fineweb10B under the data root; a run of its grid has 1.3 billion "
    "tokens. Losses are of one seed where the paper has five."
)


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    planned = [cell.name for cell in cells(preset, 0)]
    for prefix in (LANGUAGE, NANOGPT):
        results = whole_seeds(results, prefix, planned)
    who = NANOGPT_WHO if preset == "paper" else WHO
    figures = (
        *(bound_figure(results), toy_figure(results), table_figure(results)),
        *(language_figure(results), grid_figure(results)),
        language_figure(results, NANOGPT, "nanogpt", NANOGPT_WHO),
        grid_figure(results, NANOGPT, "nanogpt-grid", NANOGPT_WHO),
    )
    rows = (
        *(*rule_rows(results), *bound_rows(results), *toy_rows(results), *table_rows(results)),
        *(
            *u_rows(results),
            *step_rows(results),
            *batch_rows(results),
            *constant_rows(results),
            *schedule_rows(results, who),
        ),
        *(*u_rows(results, NANOGPT, NANOGPT_WHO), *step_rows(results, NANOGPT, NANOGPT_WHO), *published_rows(results)),
    )
    notes = {"middle": LANGUAGE_NOTES, "paper": (*NOTES, PAPER_NOTE)}.get(preset, NOTES)
    return Summary(rows=rows, figures=there(*figures), notes=notes)


CONDITIONAL_GRADIENT = Study(
    name="conditional-gradient",
    title="On the Role of Batch Size in Stochastic Conditional Gradient Methods",
    source="Islamov, Machacek, Lucchi, Silveti-Falls, Gorbunov, Cevher (2026), arXiv:2603.21191",
    cells=cells,
    summarise=summarise,
    needs_data=("middle", "paper"),
    more_presets=("middle",),
    headline="slope of the largest batch within 10 % of it",
)
