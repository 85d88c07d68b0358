"""Rows on what one step on the whole law stores: its scaling, the depth of Newton-Schulz, and anisotropic inputs."""

import math

import numpy as np

from batchwright.core.study_record import Row
from batchwright.studies.associative_memory.presets import ALPHAS
from batchwright.studies.associative_memory.rows import (
    ANISOTROPIC,
    CAPACITY,
    DEPTH,
    Results,
    by_dim,
    slope_row,
)
from batchwright.studies.judged_row import judged_row

# Allowed about the theory's slope, by alpha; the specification's.
SLOPE_TOLERANCE = {2.0: 0.08, 1.5: 0.1}


def capacity_rows(results: Results) -> list[Row]:
    """Slopes in the dimension, the ratio of Muon to SGD at the largest, Newton beside Muon, and missed mass."""
    rows: list[Row] = []
    for alpha in ALPHAS:
        counts = {name: by_dim(results, alpha, name) for name in ("sgd", "muon", "smoothed", "newton")}
        dims = list(counts["muon"])
        if len(dims) < 2:
            continue
        theory, wide = 1 + 1 / (2 * alpha), SLOPE_TOLERANCE[alpha]
        span = f"alpha={alpha:g}, d={dims[0]}-{dims[-1]}"
        for name, words in (("muon", "Muon, exact polar"), ("smoothed", "Muon, smoothed at p_d"), ("newton", "Newton")):
            rows += slope_row(
                f"{words}: slope of the count, {span}",
                CAPACITY,
                "a step stores d^(1 + 1/(2 alpha)) items",
                theory,
                counts[name],
                theory - wide,
                theory + wide,
            )
        rows += slope_row(
            f"SGD: slope of the count, {span}",
            CAPACITY,
            "a step stores d^(1/(2 alpha)) items; the counts are 3 to 16",
            1 / (2 * alpha),
            counts["sgd"],
            -math.inf,
            0.5,
        )
        last = dims[-1]
        seeds = tuple(range(len(counts["muon"][last])))
        if alpha == 2.0 and last >= 512:
            ratio = [m / s for m, s in zip(counts["muon"][last], counts["sgd"][last], strict=True)]
            rows.append(
                judged_row(
                    f"Muon over SGD, alpha={alpha:g}, d={last}",
                    CAPACITY,
                    "Muon stores more than 50 times as much",
                    None,
                    ratio,
                    50.0,
                    math.inf,
                    seeds=seeds,
                )
            )
        missed = by_dim(results, alpha, "muon", "missed_mass")
        loss = -(alpha - 1) * theory
        rows += slope_row(
            f"Muon: slope of the missed mass, {span}",
            CAPACITY,
            "an item that is not stored has the probability d^(-(alpha-1)(1 + 1/(2 alpha)))",
            loss,
            missed,
            loss - 2 * wide,
            loss + 2 * wide,
        )
    return rows


def depth_rows(results: Results) -> list[Row]:
    """Five steps lose the tail, enough of them keep it."""
    found = results.get("depth")
    if found is None:
        return []
    polar, seeds = np.array(found["polar"]["count"]), found["arguments"]["seeds"]
    share = {
        steps: np.array(each["count"]) / polar
        for steps, each in zip(found["depths"], found["newton_schulz"], strict=True)
    }
    claims = (
        (5, -math.inf, 0.3, "five steps reach down to 1/485 of the top"),
        (14, 0.95, math.inf, "14 steps are enough"),
    )
    dim = found["arguments"]["dim"]
    return [
        judged_row(
            f"{steps} steps: items stored over those of the exact polar factor, d={dim}",
            DEPTH,
            claim,
            {5: 65 / 309, 14: 306 / 309}[steps] if dim == 256 else None,
            share[steps],
            low,
            high,
            seeds=seeds,
        )
        for steps, low, high, claim in claims
        # At a smaller dimension the tail lies higher, and five steps lose less of it.
        if steps != 5 or dim >= 256
    ]


def anisotropy_rows(results: Results) -> list[Row]:
    """Anisotropic inputs take more from Muon than from Newton, which knows their covariance."""
    found = {
        float(result["arguments"]["input_decay"]): result
        for name, result in results.items()
        if name.startswith("anisotropy/")
    }
    if not {0.0, 1.0} <= found.keys():
        return []
    kept = {
        name: np.array(found[1.0][name]["count"], dtype=float) / np.array(found[0.0][name]["count"])
        for name in ("muon", "newton")
    }
    seeds, dim = found[0.0]["arguments"]["seeds"], found[0.0]["arguments"]["dim"]
    return [
        judged_row(
            f"Muon: items stored with inputs of eigenvalues 1/k over those with isotropic ones, d={dim}",
            ANISOTROPIC,
            "anisotropy of the inputs works against Muon",
            None,
            kept["muon"],
            0.0,
            0.9,
            seeds=seeds,
        )
    ]
