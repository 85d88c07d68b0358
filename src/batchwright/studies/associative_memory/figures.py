"""Figures of the study, as data."""

from collections.abc import Mapping, Sequence

import numpy as np

from batchwright.core.statistics import Interval, mean_interval
from batchwright.core.study_record import Level, Panel, Series, StudyFigure
from batchwright.studies.associative_memory.presets import ALPHAS
from batchwright.studies.associative_memory.rows import Results, by_dim

COLOURS = {"sgd": 0, "muon": 1, "smoothed": 2, "newton": 3}
NAMES = {"sgd": "SGD", "muon": "Muon", "smoothed": "Muon, smoothed", "newton": "Newton"}


def _series(name: str, points: Mapping[int, Sequence[float]], **look: object) -> Series:
    """Means over the seeds with their intervals; of one seed, or cut at zero, without."""
    found = [mean_interval(list(values)) for values in points.values()]
    ends = [
        each if np.isfinite(each.low) else Interval(value=each.value, low=each.value, high=each.value) for each in found
    ]
    return Series(
        name=name,
        x=tuple(float(x) for x in points),
        y=tuple(each.value for each in found),
        low=tuple(max(each.low, each.value / 10) for each in ends),
        high=tuple(each.high for each in ends),
        **look,  # type: ignore[arg-type]
    )


def capacity_figure(results: Results) -> StudyFigure | None:
    """Items stored against the dimension, with the slopes of the theory."""
    panels = []
    for alpha in ALPHAS:
        counts = {name: by_dim(results, alpha, name) for name in NAMES}
        if len(counts["muon"]) < 2:
            continue
        series = [_series(NAMES[name], counts[name], colour=COLOURS[name]) for name in NAMES]
        for name, exponent in (("muon", 1 + 1 / (2 * alpha)), ("sgd", 1 / (2 * alpha))):
            dims = np.array(list(counts[name]), dtype=float)
            middle = len(dims) // 2
            level = np.mean(counts[name][int(dims[middle])]) * (dims / dims[middle]) ** exponent
            series.append(
                Series(
                    name=f"d^{exponent:.3g}",
                    x=tuple(dims),
                    y=tuple(level),
                    colour=COLOURS[name],
                    dash=1,
                    markers=False,
                )
            )
        panels.append(
            Panel(
                title=f"alpha = {alpha:g}",
                x_name="dimension d",
                y_name="items stored",
                series=tuple(series),
                x_log=True,
                y_log=True,
            )
        )
    if not panels:
        return None
    return StudyFigure(
        name="capacity",
        title="Items that one step on the whole law stores",
        caption="Means over the draws with 95 % intervals; dashed are the slopes of the theory through the middle point.",
        panels=tuple(panels),
        columns=2,
    )


def batch_figure(results: Results) -> StudyFigure | None:
    """Prefix against batch size."""
    found = results.get("batches")
    if found is None:
        return None
    sizes = found["arguments"]["batch_sizes"]
    series = [
        _series(
            NAMES[name],
            {size: each["prefix"] for size, each in zip(sizes, found[name], strict=True)},
            colour=COLOURS[name],
        )
        for name in ("sgd", "muon")
    ]
    seen = {size: values for size, values in zip(sizes, found["seen"], strict=True) if np.mean(values) <= 200}
    series.append(_series("distinct items in the batch", seen, colour=4, dash=1, markers=False))
    return StudyFigure(
        name="batch-size",
        title="Most frequent items stored against the batch size, d = 96, alpha = 1.5",
        caption="Largest prefix of which 90 % are stored. SGD stores no more from a batch of 16 to 64 on, Muon grows to thousands.",
        panels=(
            Panel(
                title="",
                x_name="batch size (draws)",
                y_name="prefix (items)",
                series=tuple(series),
                levels=(Level(y=0.85 * float(np.mean(found["muon"][-1]["prefix"])), name="85 % of Muon's last"),),
                x_log=True,
                y_log=True,
            ),
        ),
    )


def depth_figure(results: Results) -> StudyFigure | None:
    """Items stored against the number of Newton-Schulz steps."""
    found = results.get("depth")
    if found is None:
        return None
    points = {
        steps: [a / b for a, b in zip(each["count"], found["polar"]["count"], strict=True)]
        for steps, each in zip(found["depths"], found["newton_schulz"], strict=True)
    }
    return StudyFigure(
        name="depth",
        title=f"Depth of Newton-Schulz, d = {found['arguments']['dim']}, alpha = 2",
        caption="Items stored over those of the exact polar factor; the rule 5 + alpha ln d / ln 3.4445 asks for "
        f"{found['enough']} steps.",
        panels=(
            Panel(
                title="",
                x_name="steps",
                y_name="share of the exact factor's items",
                series=(_series("Newton-Schulz", points, colour=COLOURS["muon"]),),
                levels=(Level(y=1.0, name="exact"),),
            ),
        ),
    )


def softmax_figure(results: Results) -> StudyFigure | None:
    """Items stored along training on the softmax."""
    names = {
        "muon": "Muon, lr 4",
        "normalized-32": "SGD, step 32 over the norm",
        "normalized-8": "SGD, step 8 over the norm",
        "plain": "SGD, lr 4096",
    }
    series = [
        _series(words, dict(zip(found["steps"], found["count"], strict=True)), colour=index)
        for index, (name, words) in enumerate(names.items())
        if (found := results.get(f"softmax/{name}")) is not None
    ]
    if not series:
        return None
    return StudyFigure(
        name="softmax",
        title="Full-batch training on the true softmax, d = 64, 2,048 items, alpha = 1.5",
        caption="Muon is far ahead after one step; SGD catches up where its step is taken over the norm of its gradient.",
        panels=(Panel(title="", x_name="step", y_name="items stored", series=tuple(series), x_log=True, y_log=True),),
    )
