"""The study of Hoffer, Hubara & Soudry (2017): its cells, and what they say of the paper.

Source: E. Hoffer, I. Hubara, D. Soudry, Train longer, generalize better: closing the generalization gap in large batch training of neural
networks, NeurIPS 2017, arXiv:1705.08741.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.studies.study import Study, Summary
from batchwright.studies.train_longer.presets import cells


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    return Summary(rows=())


TRAIN_LONGER = Study(
    name="train-longer",
    title="Train longer, generalize better: closing the generalization gap in large batch training of neural networks",
    source="Hoffer, Hubara, Soudry (2017), arXiv:1705.08741",
    cells=cells,
    summarise=summarise,
    needs_data=("middle", "paper"),
    more_presets=("middle",),
)
