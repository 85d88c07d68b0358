"""Rows on more than one step: the true softmax, and the thresholded dynamics of the theory."""

import math

import numpy as np

from batchwright.core.study_record import Row
from batchwright.studies.associative_memory.presets import REMOVED
from batchwright.studies.associative_memory.rows import MULTI_STEP, SOFTMAX, Results
from batchwright.studies.judged_row import judged_row


def softmax_rows(results: Results) -> list[Row]:
    """Muon is far ahead at first, normalised SGD catches up, plain SGD does not."""
    runs = {name[8:]: result for name, result in results.items() if name.startswith("softmax/")}
    if len(runs) < 4:
        return []
    count = {
        name: {step: np.array(values, dtype=float) for step, values in zip(run["steps"], run["count"], strict=True)}
        for name, run in runs.items()
    }
    seeds = runs["muon"]["arguments"]["seeds"]
    first = count["muon"][1] / np.maximum(count["normalized-32"][1], 1)
    late = count["normalized-32"][32] / count["muon"][32]
    plain = count["plain"][32] / count["muon"][32]
    return [
        judged_row(
            "Muon over SGD after one step",
            SOFTMAX,
            "Muon is far ahead at first",
            58 / 6,
            first,
            8.0,
            math.inf,
            seeds=seeds,
        ),
        judged_row(
            "normalised SGD (32) over Muon after 32 steps",
            SOFTMAX,
            "it catches up",
            157 / 162,
            late,
            0.9,
            1.1,
            seeds=seeds,
        ),
        judged_row(
            "plain SGD over Muon after 32 steps", SOFTMAX, "it stays behind", 108 / 162, plain, 0.0, 0.8, seeds=seeds
        ),
    ]


def multi_step_rows(results: Results) -> list[Row]:
    """The gap of one step closes once the items that ruled SGD's gradient are gone."""
    found = results.get("thresholded")
    if found is None:
        return []
    sgd, muon = (np.array(found[name], dtype=float) for name in ("sgd", "muon"))
    seeds, first, last = found["arguments"]["seeds"], 0, REMOVED.index(128)
    gain = [
        float(np.polyfit(np.log(REMOVED[2:]), np.log((np.array(REMOVED[2:]) + c[2:]) / REMOVED[2:]), 1)[0])
        for c in muon.T
    ]
    return [
        judged_row(
            "Muon over SGD, nothing removed",
            MULTI_STEP,
            "Muon is far ahead while m << d",
            45 / 5.5,
            muon[first] / sgd[first],
            4.0,
            math.inf,
            seeds=seeds,
        ),
        judged_row(
            "Muon over SGD, 128 removed (2 d)",
            MULTI_STEP,
            "no gap from m = d on",
            58 / 64,
            muon[last] / sgd[last],
            0.75,
            1.25,
            seeds=seeds,
        ),
        judged_row(
            "Muon: slope of m'/m over m, m = d to 8 d",
            MULTI_STEP,
            "m' = m (d^2/m)^(1/(2 alpha)), in the limit of large d",
            -1 / 3,
            gain,
            -0.43,
            -0.23,
            seeds=seeds,
        ),
    ]
