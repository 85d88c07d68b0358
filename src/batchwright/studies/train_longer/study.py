"""The study of Hoffer, Hubara & Soudry (2017): its cells, and what they say of the paper.

Source: E. Hoffer, I. Hubara, D. Soudry, Train longer, generalize better: closing the generalization gap in large batch training of
neural networks, NeurIPS 2017, arXiv:1705.08741.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.studies.study import Study, Summary, there
from batchwright.studies.train_longer.identity_summary import identity_rows
from batchwright.studies.train_longer.presets import cells
from batchwright.studies.train_longer.table_summary import course_figure, find_tables, table_figure, table_rows
from batchwright.studies.train_longer.travel_summary import (
    distance_figure,
    potential_figure,
    travel_rows,
    walk_rows,
)

NOTES = (
    "Seeds differ in initial weights, batches and noise, and on the digits also in the split; differences are taken seed by "
    "seed, and intervals are 95 % over seeds.",
    "Every run is clipped at norm 5, has momentum 0.9 and divides its learning rate by ten at half and at three quarters of its "
    "updates.",
    "+RA makes exactly as many updates as the small batch. An epoch's last batch is as short as it comes.",
)
PAPER_NOTE = (
    "The paper preset needs the whole of CIFAR-10 as cifar10-train-50k.npz and cifar10-test-10k.npz under the data root, and a GPU: "
    "the runs with as many updates see 32 times as many images."
)


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    tables = find_tables(preset, results)
    return Summary(
        rows=(
            *identity_rows(results),
            *table_rows(tables),
            *travel_rows(preset, results),
            *walk_rows(preset, results),
        ),
        figures=there(table_figure(tables), course_figure(tables), distance_figure(results), potential_figure(results)),
        notes=(*NOTES, PAPER_NOTE) if preset == "paper" else NOTES,
    )


TRAIN_LONGER = Study(
    name="train-longer",
    title="Train longer, generalize better: closing the generalization gap in large batch training of neural networks",
    source="Hoffer, Hubara, Soudry (2017), arXiv:1705.08741",
    cells=cells,
    summarise=summarise,
    needs_data=("middle", "paper"),
    more_presets=("middle",),
    headline="+RA less SB: points",
)
