"""The study of Li et al. (2017): its cells, and what they say of the paper.

Source: C.-L. Li, W.-C. Chang, Y. Cheng, Y. Yang, B. Poczos, MMD GAN: Towards Deeper Understanding of Moment Matching Network,
NeurIPS 2017, arXiv:1705.08584, and its official code.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.studies.mmd_gan.figures import curve_figure, dirac_figure, pictures, power_figure, score_figure
from batchwright.studies.mmd_gan.gan_rows import digits_rows, picture_rows, published_rows, table_rows
from batchwright.studies.mmd_gan.identity_rows import cost_rows, identity_rows, test_rows
from batchwright.studies.mmd_gan.presets import cells
from batchwright.studies.study import Study, Summary, there

NOTES = (
    "Class score: the inception score's formula under a classifier trained in the study on the same kind of images; it cannot be "
    "compared with inception scores of the ImageNet network. KID: of that classifier's 128 features, all pairs.",
    "The numbers printed as published on the digits are those of the spec sheet's own runs; the paper has no such table.",
)


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    if preset in ("middle", "paper"):
        rows = picture_rows(results, preset) + (published_rows() if preset == "paper" else [])
        return Summary(rows=tuple(rows), notes=NOTES[:1], pictures=pictures(results, preset))
    rows = identity_rows(results) + test_rows(results) + cost_rows(results)
    drawn = (
        dirac_figure() if "identities" in results else None,
        power_figure(results),
        score_figure(results, preset),
        curve_figure(results, preset),
    )
    return Summary(
        rows=(*rows, *digits_rows(results, preset), *table_rows(results, preset)),
        figures=there(*drawn),
        notes=NOTES,
        pictures=pictures(results, preset),
    )


MMD_GAN = Study(
    name="mmd-gan",
    title="MMD GAN: Towards Deeper Understanding of Moment Matching Network",
    source="Li, Chang, Cheng, Yang, Poczos (2017), NeurIPS",
    cells=cells,
    summarise=summarise,
    needs_data=("middle", "paper"),
    more_presets=("middle",),
    headline="MMD GAN, clip 0.1, batch 64, 1,500 steps: class score",
)
