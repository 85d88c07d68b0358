"""Rows of what has a closed form."""

from collections.abc import Mapping
from typing import Any

from batchwright.core.study_record import Row
from batchwright.studies.judged_row import exact_row
from batchwright.studies.train_longer.identities import PRINTED_CASES

Results = Mapping[str, Mapping[str, Any]]

GHOSTS, COVARIANCE = "Ghost batch norm, exact", "Covariance of a batch's gradient"
NAMES = {"balanced": "balanced weights", "normal": "normal weights", "gamma": "gamma weights"}


def identity_rows(results: Results) -> list[Row]:
    """Ghost batch norm first, then the covariances; none where their cells are not there."""
    rows = []
    if (ghosts := results.get("ghosts")) is not None:
        for what, words in (
            ("outputs", "outputs"),
            ("gradients", "gradients of input, weight and bias"),
            ("running", "running statistics"),
            ("evaluation", "outputs in evaluation"),
        ):
            claim = "one batch norm update a ghost, in order"
            rows.append(exact_row(f"{words}: largest difference", GHOSTS, claim, 0.0, float(ghosts[what]), 0.0, 1e-6))
        claim = "weights of old and new statistics sum to one"
        rows.append(
            exact_row("sum of the running weights", GHOSTS, claim, 1.0, float(ghosts["weights"]), 1 - 1e-9, 1 + 1e-9)
        )
        for (size, number), found in zip(PRINTED_CASES, ghosts["printed"], strict=True):
            rows.append(
                exact_row(
                    f"the same with the exponents of the paper's box as recalled, {number} ghosts of {size}",
                    GHOSTS,
                    "weights sum to one",
                    1.0,
                    float(found),
                    1 - 1e-9,
                    1 + 1e-9,
                    "the layer has the exponents of batch norms in a row instead",
                )
            )
    if (covariance := results.get("covariance")) is not None:
        for each in covariance["plain"]:
            what = f"total variance of a batch of {each['batch_size']} over (N-M)/(M(N-1)) tr S0"
            rows.append(
                exact_row(what, COVARIANCE, "sampling without replacement", 1.0, float(each["ratio"]), 0.97, 1.03)
            )
        large, small = covariance["large"], covariance["small"]
        for each in covariance["noise"]:
            closed = float(each["closed"])
            what = f"{NAMES[each['kind']]}, batch {large}: total variance over that of a batch of {small}"
            claim = "as the closed form has it" + (", which is an exact match" if each["kind"] == "balanced" else "")
            rows.append(exact_row(what, COVARIANCE, claim, closed, float(each["ratio"]), 0.97 * closed, 1.03 * closed))
    return rows
