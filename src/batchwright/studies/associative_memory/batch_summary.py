"""Rows on what is stored against the batch size: where each optimizer saturates."""

import math
from collections.abc import Sequence

import numpy as np

from batchwright.core.study_record import Row
from batchwright.studies.associative_memory.presets import CRITICAL_ALPHAS
from batchwright.studies.associative_memory.rows import BATCH, Results, slope_row
from batchwright.studies.judged_row import judged_row

# About the theory's slope of critical batch sizes, which a grid of powers of two resolves no better.
CRITICAL_TOLERANCE = 0.35


def saturation(sizes: Sequence[int], prefix: Sequence[float], share: float) -> float:
    """Batch size at which the prefix reaches ``share`` of its last value, between the sizes by its logarithm."""
    aim = share * prefix[-1]
    for index, value in enumerate(prefix):
        if value >= aim:
            if index == 0 or value == prefix[index - 1]:
                return float(sizes[index])
            part = (aim - prefix[index - 1]) / (value - prefix[index - 1])
            return float(sizes[index - 1] * (sizes[index] / sizes[index - 1]) ** part)
    return math.inf


def batch_rows(results: Results) -> list[Row]:
    """Where each optimizer saturates, and that Muon stores nearly all it has seen while the batch is small."""
    found = results.get("batches")
    rows: list[Row] = []
    if found is not None:
        sizes, seeds = found["arguments"]["batch_sizes"], found["arguments"]["seeds"]
        prefix = {name: np.array([each["prefix"] for each in found[name]]) for name in ("sgd", "muon")}
        count = np.array([each["count"] for each in found["muon"]])
        seen = np.array(found["seen"])
        if 64 in sizes and sizes[-1] >= 65536:
            flat = prefix["sgd"][sizes.index(64)] / np.maximum(prefix["sgd"][-1], 1)
            at = [saturation(sizes, column, 0.85) for column in prefix["muon"].T]
            rows += [
                judged_row(
                    "SGD: prefix at B=64 over that at the largest batch",
                    BATCH,
                    "SGD is flat from d^(1/2) on",
                    1.0,
                    flat,
                    0.6,
                    1.6,
                    seeds=seeds,
                ),
                judged_row(
                    "Muon: batch size of 85 % of the last prefix",
                    BATCH,
                    "Muon saturates near d^(alpha + 1/2) = 9,216",
                    9216.0,
                    at,
                    4096.0,
                    16384.0,
                    seeds=seeds,
                ),
            ]
        small = [index for index, size in enumerate(sizes) if 16 <= size <= 256]
        rows.append(
            judged_row(
                "Muon: share of the seen items that are stored, 16 <= B <= 256",
                BATCH,
                "a small batch is stored nearly whole",
                None,
                (count[small] / seen[small]).min(0),
                0.9,
                1.0,
                seeds=seeds,
                each=True,
            )
        )
    for alpha in CRITICAL_ALPHAS:
        for name, theory in (("muon", alpha + 0.5), ("sgd", 0.5)):
            sizes_at = {
                int(result["arguments"]["dim"]): [size or math.nan for size in result[name]]
                for key, result in results.items()
                if key.startswith(f"critical/alpha-{alpha:g}/")
            }
            if not sizes_at:
                continue
            rows += slope_row(
                f"{'Muon' if name == 'muon' else 'SGD'}: slope of the critical batch size, alpha={alpha:g}, "
                f"d={min(sizes_at)}-{max(sizes_at)}",
                BATCH,
                "d^(alpha + 1/2) for Muon, d^(1/2) for SGD",
                theory,
                dict(sorted(sizes_at.items())),
                theory - CRITICAL_TOLERANCE,
                theory + CRITICAL_TOLERANCE,
                note="missed mass within 1.25 of that of the whole law, powers of two",
            )
    return rows
