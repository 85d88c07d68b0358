"""The study of Andreyev et al. (2026): its cells, and what they say of the paper.

Source: A. Andreyev, V. Ananthkumar, M. Walden, T. Poggio, P. Beneventano, Momentum Further Constrains Sharpness at the Edge of
Stochastic Stability, arXiv:2604.14108.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.studies.eoss.catapult_summary import catapult_rows, matrix_figure, prediction_figure
from batchwright.studies.eoss.cifar_summary import cifar_figure, cifar_rows
from batchwright.studies.eoss.linear_summary import boundary_rows, linear_figure, linear_rows
from batchwright.studies.eoss.plateau_summary import plateau_figure, plateau_rows, plateaus, trajectory_figure
from batchwright.studies.eoss.presets import cells
from batchwright.studies.study import Study, Summary, there

NOTES = (
    "Batches are drawn anew from the whole training set at each step, without replacement within a batch.",
    "A plateau is the mean of the measurements in the last fifth of a run; its interval is over seeds, which differ in initial "
    "weights and batches and share the training set.",
    "Full-batch sharpness is one deterministic number a measurement; at smaller batches it is the mean over up to 100 fresh batches.",
)


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    if preset == "paper":
        return Summary(rows=tuple(cifar_rows(results)), figures=there(cifar_figure(results)), notes=NOTES[:2])
    found = plateaus(results)
    return Summary(
        rows=(*boundary_rows(results), *linear_rows(results), *plateau_rows(found), *catapult_rows(results)),
        figures=there(
            plateau_figure(found),
            matrix_figure(results),
            linear_figure(results),
            trajectory_figure(found),
            prediction_figure(results),
        ),
        notes=NOTES,
    )


EOSS = Study(
    name="eoss",
    title="Momentum Further Constrains Sharpness at the Edge of Stochastic Stability",
    source="Andreyev, Ananthkumar, Walden, Poggio, Beneventano (2026), arXiv:2604.14108",
    cells=cells,
    summarise=summarise,
    needs_data=("paper",),
    headline="SGDM 0.5, full batch: batch sharpness",
)
