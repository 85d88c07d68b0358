"""The study of Wang et al. (2018): its cells, and what they say of the paper.

Source: G. Wang, J. Peng, P. Luo, X. Wang, L. Lin, Kalman Normalization: Normalizing Internal Representations Across Network Layers,
NeurIPS 2018, and its official code.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.studies.kalman_norm.cifar_summary import published_rows, subset_rows
from batchwright.studies.kalman_norm.digits_summary import (
    accuracy_rows,
    mechanism_rows,
    statistics_figure,
    table_figure,
)
from batchwright.studies.kalman_norm.identity_summary import identity_rows
from batchwright.studies.kalman_norm.presets import TABLES, cells
from batchwright.studies.study import Study, Summary, there

NOTES = (
    "The gradient's batch is 128 in every run; ghosts of two are what the norms see.",
    "Running statistics are of all ghosts, with the variance between their means, unless a column says 'as coded'.",
    "The published numbers of the digits are those of the spec sheet's own runs, not of the paper, which has no such table; its "
    "data split and seeds are others.",
)


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    if preset == "middle":
        figure = table_figure(results, [TABLES["cifar-5k"]], "cifar", "Test accuracy on CIFAR-10, 5,000 images")
        return Summary(rows=tuple(subset_rows(results)), figures=there(figure), notes=NOTES[:2])
    if preset == "paper":
        tables = [TABLES["cifar-32-layers"], TABLES["cifar-110-layers"]]
        figure = table_figure(results, tables, "cifar", "Test accuracy on CIFAR-10")
        return Summary(rows=tuple(published_rows(results)), figures=there(figure), notes=NOTES[:2])
    tables = [TABLES["digits-lr-0.1"], TABLES["digits-lr-0.03"]]
    return Summary(
        rows=(*identity_rows(results), *accuracy_rows(results), *mechanism_rows(results)),
        figures=there(
            table_figure(results, tables, "accuracy", "Test accuracy on digits, gradient batch 128"),
            statistics_figure(results),
        ),
        notes=NOTES,
    )


KALMAN_NORM = Study(
    name="kalman-norm",
    title="Kalman Normalization: Normalizing Internal Representations Across Network Layers",
    source="Wang, Peng, Luo, Wang, Lin (2018), NeurIPS",
    cells=cells,
    summarise=summarise,
    needs_data=("middle", "paper"),
    more_presets=("middle",),
    headline="KN 0.9, raw, less BN, batch 128",
)
