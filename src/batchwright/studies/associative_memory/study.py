"""The study of Kim et al. (2026): its cells, and what they say of the paper.

Source: J. Kim, E. Nichani, D. Wu, A. Bietti, J. D. Lee, Sharp Capacity Scaling of Spectral Optimizers in Learning Associative Memory,
arXiv:2603.26554.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.studies.associative_memory.batch_summary import batch_rows
from batchwright.studies.associative_memory.capacity_summary import anisotropy_rows, capacity_rows, depth_rows
from batchwright.studies.associative_memory.figures import batch_figure, capacity_figure, depth_figure, softmax_figure
from batchwright.studies.associative_memory.presets import cells
from batchwright.studies.associative_memory.steps_summary import multi_step_rows, softmax_rows
from batchwright.studies.study import Study, Summary, there

NOTES = (
    "An item is stored when its own output has the highest score of all outputs; the 3 d^(1 + 1/(2 alpha)) most frequent items are "
    "asked for.",
    "Exponents are derived up to constants and powers of log d; the paper's theorems and figures were not at hand.",
    "Gradients and singular value decompositions are in float64, scores in float32.",
)


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    return Summary(
        rows=(
            *capacity_rows(results),
            *batch_rows(results),
            *depth_rows(results),
            *softmax_rows(results),
            *multi_step_rows(results),
            *anisotropy_rows(results),
        ),
        figures=there(capacity_figure(results), batch_figure(results), depth_figure(results), softmax_figure(results)),
        notes=NOTES,
    )


ASSOCIATIVE_MEMORY = Study(
    name="associative-memory",
    title="Sharp Capacity Scaling of Spectral Optimizers in Learning Associative Memory",
    source="Kim, Nichani, Wu, Bietti, Lee (2026), arXiv:2603.26554",
    cells=cells,
    summarise=summarise,
    headline="Muon, exact polar: slope of the count, alpha=2",
)
