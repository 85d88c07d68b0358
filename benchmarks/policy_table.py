"""The tables and the picture of `benchmarks.policies`, from its JSON lines."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batchwright.core.statistics import Interval, mean_interval

Run = dict[str, Any]
# Their number has no factor in common with that of the colours, so that mark and colour together name a policy.
MARKS = "sv<>pPX*Dd^"
TIE = 0.005  # of the loss
BEGIN, END = "<!-- made by benchmarks.policies --table: begin -->", "<!-- made by benchmarks.policies --table: end -->"


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """The runs of one task.

    Attributes:
        name: Of the task.
        fixed: Runs on the evaluation seeds by batch size, each in the order of the seeds.
        policies: The same by label.
        shorter: The fixed optimum's runs on shorter budgets, by budget.
        best: The fixed optimum.
        smaller: Runs of half of it, where it is the smallest size of the sweep.
    """

    name: str
    fixed: dict[int, list[Run]]
    policies: dict[str, list[Run]]
    shorter: dict[int, list[Run]]
    best: int
    smaller: dict[int, list[Run]]

    @property
    def at_best(self) -> list[Run]:
        return self.fixed[self.best]

    @property
    def seeds(self) -> int:
        return len(self.at_best)


def load(path: Path, name: str) -> Results | None:
    """The runs of a file; groups that lack a seed are left out, and None is returned where there is no whole fixed size."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    seeds = sorted({line["seed"] for line in lines if line["kind"] == "fixed"})

    def groups(kind: str, key: str) -> dict[Any, list[Run]]:
        found: dict[Any, dict[int, Run]] = {}
        for line in lines:
            if line["kind"] == kind:
                found.setdefault(line[key], {})[line["seed"]] = line
        return {name: [runs[seed] for seed in seeds] for name, runs in found.items() if set(seeds) <= set(runs)}

    fixed = dict(sorted(groups("fixed", "batch_size").items()))
    if not fixed:
        return None
    best = optimum({size: sum(map(loss_of, runs)) / len(runs) for size, runs in fixed.items()})
    start = {run["lr"] for run in fixed[best]}
    policies = {
        label: runs
        for label, runs in groups("policy", "label").items()
        if {run["lr"] for run in runs} == start and starts(runs, best)
    }
    shorter = {key: runs for key, runs in groups("shorter", "max_examples").items() if runs[0]["batch_size"] == best}
    smaller = groups("smaller", "batch_size")
    return Results(name=name, fixed=fixed, policies=policies, shorter=shorter, best=best, smaller=smaller)


def optimum(losses: Mapping[int, float]) -> int:
    """The largest batch size whose loss is within `TIE` of the lowest."""
    return max(size for size, loss in losses.items() if loss <= (1 + TIE) * min(losses.values()))


def starts(runs: Sequence[Run], best: int) -> bool:
    """Whether runs of a policy start from the fixed optimum, or from a multiple of it where the label says so."""
    times = (
        int(runs[0]["label"].rpartition(", ")[2].removesuffix("x")) if runs[0]["label"].startswith("adascale") else 1
    )
    return bool(runs[0]["batch_size"] == times * best)


def loss_of(run: Run) -> float:
    return math.inf if run["loss"] is None else float(run["loss"])


def differences(runs: Sequence[Run], others: Sequence[float | None]) -> Interval | None:
    """Loss of runs less that of others on the same seeds; None where one is not known."""
    if any(
        other is None or not math.isfinite(other) or run["loss"] is None
        for run, other in zip(runs, others, strict=True)
    ):
        return None
    return mean_interval([run["loss"] - other for run, other in zip(runs, others, strict=True)])


def between(points: Sequence[tuple[float, float]], updates: float) -> float | None:
    """Loss at a number of updates, linear in its logarithm between points ``(updates, loss)``; None outside them."""
    points = sorted(points)
    counts, losses = [math.log(count) for count, _ in points], [loss for _, loss in points]
    if not points or not points[0][0] <= updates <= points[-1][0]:
        return None
    return float(np.interp(math.log(updates), counts, losses))


def until(run: Run, loss: float) -> float | None:
    """Updates at which the held-out loss on the way first is at ``loss`` or below, linear between looks; None where it never is."""
    before: tuple[float, float] | None = None
    for updates, _, value in run["curve"]:
        if value <= loss:
            if before is None or before[1] == value:
                return float(updates)
            return before[0] + (updates - before[0]) * (before[1] - loss) / (before[1] - value)
        before = (updates, value)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A group of runs against the fixed sizes; losses are held-out, differences paired by seed, None where not known.

    Attributes:
        less_optimum: Loss less that of the fixed optimum at equal examples.
        updates: Over those of the fixed optimum.
        reached: Updates until the same seed's final loss of the fixed optimum, over the optimum's, of the seeds that get there.
        less_shorter: Loss less that of the fixed optimum with as many updates.
        less_frontier: Loss less that of a fixed size of as many updates at equal examples.
    """

    less_optimum: Interval | None
    updates: float
    reached: list[float]
    less_shorter: Interval | None
    less_frontier: Interval | None


def compare(found: Results, runs: Sequence[Run]) -> Comparison:
    best = found.at_best
    frontier = [
        [(sizes[seed]["updates"], loss_of(sizes[seed])) for sizes in found.fixed.values()]
        for seed in range(found.seeds)
    ]
    shorter = [
        [(group[seed]["updates"], loss_of(group[seed])) for group in (*found.shorter.values(), best)]
        for seed in range(found.seeds)
    ]
    ends = [run["curve"][-1][2] if run["curve"] else math.nan for run in best]
    times = [until(run, end) for run, end in zip(runs, ends, strict=True)]
    return Comparison(
        less_optimum=differences(runs, [loss_of(run) for run in best]),
        updates=sum(run["updates"] for run in runs) / sum(run["updates"] for run in best),
        reached=[value / run["updates"] for value, run in zip(times, best, strict=True) if value is not None],
        less_shorter=differences(
            runs, [between(points, run["updates"]) for points, run in zip(shorter, runs, strict=True)]
        ),
        less_frontier=differences(
            runs, [between(points, run["updates"]) for points, run in zip(frontier, runs, strict=True)]
        ),
    )


def signed(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.value:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def sizes_of(runs: Sequence[Run]) -> str:
    """First, median last, and mean batch size."""
    last = np.median([[size for start, size in run["changes"] if start < run["examples"]][-1] for run in runs])
    mean = np.mean([run["examples"] / run["updates"] for run in runs])
    return f"{runs[0]['batch_size']} → {last:.0f}, mean {mean:.1f}"


def tables(found: Results) -> str:
    """The fixed sizes, then the policies, as Markdown."""
    best = found.at_best
    lines = [
        f"### {found.name}",
        "",
        f"{best[0]['examples']:,} examples a run, seeds 0 to {found.seeds - 1}; fixed optimum: batch size {found.best}, "
        f"{best[0]['updates']:,} updates.",
        "",
        "| fixed batch size | tuned lr | updates | held-out loss | less the optimum's | accuracy |",
        "|---:|---:|---:|---|---|---:|",
    ]
    for size, runs in (*found.smaller.items(), *found.fixed.items()):
        losses = [loss_of(run) for run in runs]
        shown = "diverged" if any(map(math.isinf, losses)) else spanned(mean_interval(losses))
        accuracy = "–" if "diverged" in shown else f"{np.mean([run['accuracy'] for run in runs]):.3f}"
        less = "" if size == found.best else signed(differences(runs, [loss_of(run) for run in best]))
        mark = ", not in the sweep" if size in found.smaller else ""
        lines.append(f"| {size}{mark} | {runs[0]['lr']:.4g} | {runs[0]['updates']:,} | {shown} | {less} | {accuracy} |")
    lines += [
        "",
        "| policy | batch size | updates, of the optimum's | loss less the optimum's, equal examples | updates to the optimum's loss "
        "| loss less the optimum's, equal updates | loss less a fixed size's, equal updates and examples |",
        "|---|---|---:|---|---|---|---|",
    ]
    rows = [(compare(found, runs), label, runs) for label, runs in found.policies.items()]
    for row, label, runs in sorted(
        rows, key=lambda each: each[0].less_optimum.value if each[0].less_optimum else math.inf
    ):
        lost = sum(run["loss"] is None for run in runs)
        if lost:
            lines.append(f"| {label} | {sizes_of(runs)} | | diverged in {lost} of {found.seeds} | | | |")
            continue
        reached = f"{np.mean(row.reached):.2f} ({len(row.reached)} of {found.seeds})" if row.reached else "never"
        lines.append(
            f"| {label} | {sizes_of(runs)} | {row.updates:.2f} | {signed(row.less_optimum)} | {reached} | {signed(row.less_shorter)} "
            f"| {signed(row.less_frontier)} |"
        )
    return "\n".join(lines)


def spanned(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.4f}–{interval.high:.4f})"


def write_docs(path: Path, text: str) -> None:
    """Put ``text`` between the two marks of a page."""
    page = path.read_text()
    head, tail = page.index(BEGIN) + len(BEGIN), page.index(END)
    path.write_text(f"{page[:head]}\n{text}\n{page[tail:]}")


def draw(path: Path, all_found: Sequence[Results]) -> None:
    """Held-out loss against updates at equal examples: the fixed sizes as a line, the policies as points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(all_found), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    names = sorted({label for found in all_found for label in found.policies})
    for axes, found in zip(np.atleast_1d(figure.subplots(1, len(all_found))), all_found, strict=True):
        sizes = [size for size, runs in found.fixed.items() if all(run["loss"] is not None for run in runs)]
        updates = [found.fixed[size][0]["updates"] for size in sizes]
        losses = [np.mean([run["loss"] for run in found.fixed[size]]) for size in sizes]
        spread = [np.std([run["loss"] for run in found.fixed[size]], ddof=1) for size in sizes]
        axes.errorbar(updates, losses, spread, color="#7d8590", marker="o", label="fixed batch sizes", zorder=1)
        for size, x, y in zip(sizes, updates, losses, strict=True):
            axes.annotate(str(size), (x, y), textcoords="offset points", xytext=(4, 5), fontsize=8, color="#7d8590")
        for number, label in enumerate(names):
            runs = found.policies.get(label, [])
            if runs and all(run["loss"] is not None for run in runs):
                x, y = np.mean([run["updates"] for run in runs]), np.mean([run["loss"] for run in runs])
                axes.plot(x, y, MARKS[number % len(MARKS)], color=f"C{number % 10}", markersize=8, label=label)
        axes.set_xscale("log")
        axes.set_xticks(updates, [f"{each:,}" for each in updates])
        axes.set_xticks([], minor=True)
        axes.set_title(f"{found.name}, {found.at_best[0]['examples']:,} examples", fontsize=10)
        axes.set_xlabel("updates")
        axes.set_ylabel("held-out loss")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)
