"""Rows of the identities."""

from collections.abc import Mapping
from typing import Any

from batchwright.core.study_record import Row
from batchwright.studies.judged_row import exact_row

GROUP = "Identities"
PADDED = [[0, 1, 2, 0], [0, 3, 4, 0], [0, 5, 6, 0], [0, 7, 8, 0]]


def identity_rows(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row a number; each is judged by itself."""
    found = results.get("identities")
    if found is None:
        return []
    relu, mixture = found["relu"], found["mixture"]
    rows = [
        _row("gain 0 against ghost batch norm: largest difference", "equal to 1e-6", found["gain_zero"], 0, 1e-6),
        _row("gain 1 against normalising by the prior", "equal to 1e-6", found["gain_one"], 0, 1e-6),
        _row("mixture rule against 2e6 samples: mean", "within 0.5 %", mixture["mean"], 0, 0.005),
        _row("mixture rule against 2e6 samples: variance", "within 0.5 %", mixture["var"], 0, 0.005),
        _row("ReLU moments against 2e6 samples: mean", "within 0.5 %", relu["mean"], 0, 0.005),
        _row("ReLU moments against 2e6 samples: variance", "within 0.5 %", relu["var"], 0, 0.005),
        _row(
            "closed form through a convolution, valid padding: error of the mean",
            "0.001",
            found["valid"]["mean"],
            0,
            0.01,
        ),
        _row("the same: sampled over closed variance", "1.000", found["valid"]["var_ratio"], 0.995, 1.005),
        _row(
            "four ghosts of two channels padded by one on both sides: rows that are right",
            "0120 / 0340 / 0560 / 0780",
            float(sum(one == two for one, two in zip(found["padding"], PADDED, strict=True))),
            4,
            4,
        ),
    ]
    for size, error, ratio, scatter in (("32", 0.021, 0.985, 0.018), ("8", 0.081, 0.917, 0.068)):
        same = found[f"same_{size}"]
        rows += [
            _row(
                f"zeros around {size} x {size} pixels: error of the sampled mean",
                "the paper's samples are biased at the border",
                same["mean"],
                0.005,
                float("inf"),
                published=error,
            ),
            _row(
                f"zeros around {size} x {size} pixels: sampled over closed variance",
                "and their variance too small",
                same["var_ratio"],
                0.0,
                1.0,
                published=ratio,
            ),
            _row(
                f"{size} x {size} pixels: scatter of the mean from field to field",
                "and they carry noise",
                same["scatter"],
                0.5 * scatter,
                2 * scatter,
                published=scatter,
            ),
        ]
    return rows


def _row(what: str, claim: str, value: float, low: float, high: float, published: float | None = None) -> Row:
    return exact_row(what, GROUP, claim, published, value, float(low), float(high))
