"""The study of batched kernelized bandits: its cells, and what they say of the papers.

Sources: Z. Li, J. Scarlett, Gaussian Process Bandit Optimization with Few Batches, arXiv:2110.07788; C. Ma, Z. Chen, J. Scarlett,
Batched Kernelized Bandits: Refinements and Extensions, arXiv:2603.12627.
"""

from collections.abc import Mapping
from typing import Any

from batchwright.core.statistics import mean_interval
from batchwright.studies.batched_bandits.figures import NAMES, batches_figure, horizon_figure, methods_figure
from batchwright.studies.batched_bandits.presets import METHODS, cells
from batchwright.studies.batched_bandits.rows import Results, growth_rows, regret_rows, robust_rows, schedule_rows
from batchwright.studies.study import Study, Summary, there

NOTES = (
    "Functions are drawn from the prior on a 30 x 30 grid of [-5, 5]^2, length scale 1, and known kernel and noise are used.",
    "What is called published is a run of the specification's author with four to six functions; the second paper has no code that "
    "could be found.",
    "beta = 6 is the public code's practical width, 2.45 standard deviations; nothing is proven of it.",
)


def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Rows, figures and notes of whatever has been finished."""
    figures = (batches_figure(results), horizon_figure(results), methods_figure(results))
    return Summary(
        rows=(*schedule_rows(results), *regret_rows(results), *growth_rows(results), *robust_rows(results)),
        figures=there(*figures),
        notes=(*NOTES, *comparison(results)),
    )


def comparison(results: Results) -> list[str]:
    """Simple and cumulative regret of all methods after the last round, a sentence a horizon."""
    found = []
    for horizon in sorted({int(key.split("/")[1][2:]) for key in results if key.startswith("equal/")}):
        parts = []
        for name in METHODS:
            result = results.get(f"equal/T-{horizon}/{name}")
            if result is not None:
                simple = mean_interval([each[-1] for each in result["simple"]])
                total = mean_interval(result["regret"])
                lost = sum(not each for each in result["kept"])
                words = f"{lost} of {len(result['kept'])} lost the optimum"
                parts.append(
                    f"{NAMES[name]}: {simple.value:.3f} ({simple.low:.3f} to {simple.high:.3f}), {total.value:.0f} "
                    f"({total.low:.0f} to {total.high:.0f}), {len(result['plan'])} rounds, {words}"
                )
        found.append(f"T = {horizon}, simple and cumulative regret with 95 % intervals. " + "; ".join(parts) + ".")
    return found


BATCHED_BANDITS = Study(
    name="batched-bandits",
    title="Batched Kernelized Bandits: Refinements and Extensions",
    source="Ma, Chen, Scarlett (2026), arXiv:2603.12627; Li & Scarlett (2022), arXiv:2110.07788",
    cells=cells,
    summarise=summarise,
    headline="R_T, se, sqrt",
)
