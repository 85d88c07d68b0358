"""Claims and what was measured of them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchwright.core.study_record import Row
from batchwright.studies.judged_row import judged_row

Results = Mapping[str, Mapping[str, Any]]

SCHEDULES, REGRET, GROWTH, ROBUST = (
    "Schedules (T4.1)",
    "Regret against the number of batches (T4.2)",
    "Growth with the horizon (T4.3)",
    "Robust BPE (T4.4)",
)
LISTS = {
    "64": [8, 23, 33],
    "256": [16, 64, 128, 48],
    "1000": [32, 179, 424, 365],
    "1024": [32, 182, 432, 378],
    "10000": [100, 1000, 3163, 5625, 112],
}
COUNTS = {"100": 4, "1000": 4, "100000": 5, "1000000": 5, "100000000": 6}
OPTIMAL = {"se": [3, 3, 4, 5], "matern": [2, 3, 3, 4]}
SUMS = (4.0, 4.6, 5.2, 5.6, 6.2)
# Mean and standard deviation over four functions.
PUBLISHED = {
    "se/batches-2": (678.0, 139.0),
    "se/batches-3": (555.0, 51.0),
    "se/batches-4": (397.0, 28.0),
    "se/batches-6": (329.0, 67.0),
    "se/sqrt": (441.0, 27.0),
    "se/gp-ucb": (124.0, 133.0),
}
MATERN = {"batches-2": 1122.0, "batches-3": 654.0, "batches-4": 658.0, "batches-6": 467.0, "sqrt": 589.0}
GROWN = {125: 22.7, 500: 18.5, 2000: 15.2}
SIMPLE = {64: 0.41, 256: 0.012, 1024: 0.0}
CUMULATIVE = {64: 176.0, 256: 451.0, 1024: 756.0}


def schedule_rows(results: Results) -> list[Row]:
    """Lists and numbers exactly, sums to 0.1."""
    found = results.get("schedules")
    if found is None:
        return []
    agree = [float(found["lists"][horizon] == lengths) for horizon, lengths in LISTS.items()]
    agree += [float(found["counts"][horizon] == number) for horizon, number in COUNTS.items()]
    agree += [float(found["optimal"][kernel] == numbers) for kernel, numbers in OPTIMAL.items()]
    rows = [
        judged_row(
            f"share of {len(agree)} lists and numbers of batches that agree",
            SCHEDULES,
            "square-root lists, their lengths, optimal numbers",
            1.0,
            agree,
            1.0,
            1.0,
            each=True,
        )
    ]
    for horizon, published, value in zip((4, 6, 9, 12, 18), SUMS, found["plain_sums"], strict=True):
        rows.append(
            judged_row(
                f"sum of regrets over the root, square-root schedule, T=1e{horizon}",
                SCHEDULES,
                "grows with the number of batches",
                published,
                [value],
                published - 0.1,
                published + 0.1,
            )
        )
    rows.append(
        judged_row(
            "the same, geometric schedule, T=1e4 to 1e18",
            SCHEDULES,
            "3.43 to 3.48 at every horizon: the factor B is gone",
            3.45,
            found["geometric_sums"],
            3.33,
            3.58,
            each=True,
        )
    )
    return rows


def regret_rows(results: Results) -> list[Row]:
    """Regret of each plan, their order, and optima that were lost."""

    def of(name: str, quantity: str = "regret") -> list[float]:
        found = results.get(f"regret/{name}")
        return [] if found is None else list(found[quantity])

    def seeds(name: str) -> Sequence[int]:
        found = results.get(f"regret/{name}")
        return () if found is None else found["arguments"]["seeds"]

    rows = []
    full = any(result["arguments"].get("horizon") == 1000 for key, result in results.items() if "regret/" in key)
    for name, (published, spread) in PUBLISHED.items() if full else ():
        kernel, plan = name.split("/")
        key = f"{kernel}/beta-6/{plan}"
        if values := of(key):
            rows.append(
                judged_row(
                    f"R_T, {kernel}, {plan}",
                    REGRET,
                    "within the published standard deviation",
                    published,
                    values,
                    published - spread,
                    published + spread,
                    seeds=seeds(key),
                )
            )
    for kernel in ("se", "matern"):
        names = {each: f"{kernel}/beta-6/{each}" for each in (*(f"batches-{b}" for b in (2, 3, 4, 6)), "sqrt")}
        pairs = (
            ("batches-2", "batches-3"),
            ("batches-3", "batches-4"),
            ("batches-4", "batches-6"),
            ("batches-3", "sqrt"),
            ("sqrt", "batches-6"),
        )
        for more, less in pairs:
            first, second = of(names[more]), of(names[less])
            if first and second:
                gaps = [a - b for a, b in zip(first, second, strict=True)]
                rows.append(
                    judged_row(
                        f"R_T of {more} less that of {less}, {kernel}",
                        REGRET,
                        "more batches, less regret; the square-root schedule between 3 and 6",
                        MATERN[more] - MATERN[less] if kernel == "matern" else None,
                        gaps,
                        0.0,
                        math.inf,
                        seeds=seeds(names[more]),
                    )
                )
    for beta in (2, 6, 9):
        for kernel in ("se", "matern"):
            keys = [key for key in results if key.startswith(f"regret/{kernel}/beta-{beta}/") and "ucb" not in key]
            lost = [float(not each) for key in keys for each in results[key]["kept"]]
            if not lost:
                continue
            claim = {2: "unsafe: 15 to 20 % of runs", 6: "never eliminated", 9: "nobody's claim"}[beta]
            rows.append(
                judged_row(
                    f"share of {len(lost)} runs that lost the optimum, {kernel}, beta={beta}",
                    REGRET,
                    claim,
                    {2: 0.175, 6: 0.0, 9: None}[beta],
                    lost,
                    0.0,
                    0.35 if beta == 2 else 0.0,
                    seeds=results[keys[0]]["arguments"]["seeds"],
                    each=beta != 2,
                    note="the same functions in every plan",
                )
            )
    return rows


def growth_rows(results: Results) -> list[Row]:
    """Regret over the root of the horizon does not grow."""
    found = {
        int(result["arguments"]["horizon"]): np.array(result["regret"]) / math.sqrt(result["arguments"]["horizon"])
        for key, result in results.items()
        if key.startswith("growth/")
    }
    found = dict(sorted(found.items()))
    rows = [
        judged_row(
            f"R_T/sqrt(T), T={horizon}",
            GROWTH,
            "published mean of four functions, to 25 %",
            GROWN[horizon],
            list(values),
            0.75 * GROWN[horizon],
            1.25 * GROWN[horizon],
            seeds=range(len(values)),
        )
        for horizon, values in found.items()
        if horizon in GROWN
    ]
    horizons = list(found)
    for first, second in itertools.pairwise(horizons):
        rows.append(
            judged_row(
                f"R_T/sqrt(T) at T={second} over that at T={first}",
                GROWTH,
                "not increasing",
                GROWN[second] / GROWN[first] if {first, second} <= GROWN.keys() else None,
                list(found[second] / found[first]),
                0.0,
                1.0,
                seeds=range(len(found[first])),
            )
        )
    return rows


def robust_rows(results: Results) -> list[Row]:
    """Simple and cumulative robust regret, and that the robust optimum survives."""
    found = {
        int(result["arguments"]["horizon"]): result for key, result in results.items() if key.startswith("robust/")
    }
    found = dict(sorted(found.items()))
    rows = []
    for horizon, result in found.items():
        seeds = result["arguments"]["seeds"]
        rows.append(
            judged_row(
                f"runs in which the robust optimum survives, T={horizon}",
                ROBUST,
                "in every run",
                1.0,
                [float(each) for each in result["kept"]],
                1.0,
                1.0,
                seeds=seeds,
                each=True,
            )
        )
        if horizon in SIMPLE:
            high = 0.05 if horizon >= 256 else math.inf
            rows.append(
                judged_row(
                    f"simple robust regret, T={horizon}",
                    ROBUST,
                    "below 0.05 from T=256 on",
                    SIMPLE[horizon],
                    result["simple"],
                    # The interval of a mean near zero reaches below it, which says nothing.
                    -math.inf,
                    high,
                    seeds=seeds,
                )
            )
            low, high = CUMULATIVE[horizon] * 0.7, CUMULATIVE[horizon] * 1.3
            rows.append(
                judged_row(
                    f"cumulative robust regret, T={horizon}",
                    ROBUST,
                    "published mean of six functions, to 30 %; a sample is charged to its worst surviving nominal point",
                    CUMULATIVE[horizon],
                    result["cumulative"],
                    low,
                    high,
                    seeds=seeds,
                )
            )
    if len(found) > 1:
        horizons = np.log(np.array(list(found), dtype=np.float64))
        regrets = np.log(np.array([result["cumulative"] for result in found.values()]))
        slopes = ((horizons - horizons.mean()) @ (regrets - regrets.mean(0))) / (
            (horizons - horizons.mean()) ** 2
        ).sum()
        last = list(found.values())[-1]
        rows += [
            judged_row(
                "exponent of the cumulative robust regret in T",
                ROBUST,
                "about 0.53, below 0.75",
                0.53,
                list(slopes),
                -math.inf,
                0.75,
                seeds=last["arguments"]["seeds"],
            ),
            judged_row(
                "robust regret of the plain optimum",
                ROBUST,
                "the plain optimum is not robust",
                0.54,
                last["of_plain_optimum"],
                0.0,
                math.inf,
                seeds=last["arguments"]["seeds"],
            ),
        ]
    return rows
