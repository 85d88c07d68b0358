"""The study of Papini et al. (2017): its cells, and what they say of the paper.

Source: M. Papini, M. Pirotta, M. Restelli, Adaptive Batch Size for Safe Policy Gradients, NeurIPS 2017.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.studies.safe_pg.figures import audit_figure, curve_figure, promise_figure
from batchwright.studies.safe_pg.guarantee_rows import guarantee_rows
from batchwright.studies.safe_pg.presets import cells
from batchwright.studies.safe_pg.rows import (
    audit_rows,
    bias_rows,
    form_rows,
    rule_rows,
    table_rows,
    variance_rows,
)
from batchwright.studies.study import Study, Summary, there

NOTES = (
    "The table is reproduced with what the public code does: it scores the clipped action, takes a variance formula that is no bound, "
    "and reports J without boxes and end. All else here scores raw actions and evaluates the return that is sampled.",
    "The paper's δ is the probability that an update fails: δ = 0.95 promises 5 %.",
    "In more than one dimension the true change of the return is measured with common random numbers until its sign is plain at "
    "99.9 %; an update whose sign stays open counts as one that lowers it.",
)


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    figures = (curve_figure(results), audit_figure(results), promise_figure(results))
    return Summary(
        rows=(
            *form_rows(results),
            *table_rows(results),
            *rule_rows(results),
            *bias_rows(results),
            *variance_rows(results),
            *audit_rows(results),
            *guarantee_rows(results),
        ),
        figures=there(*figures),
        notes=NOTES,
    )


SAFE_PG = Study(
    name="safe-pg",
    title="Adaptive Batch Size for Safe Policy Gradients",
    source="Papini, Pirotta, Restelli (2017), NeurIPS 30",
    cells=cells,
    summarise=summarise,
    headline="updates that lower",
)
