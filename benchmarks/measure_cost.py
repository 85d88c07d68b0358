"""What a full measurement costs: the parts of a plan's cost in plain steps, each the median over some plans.

    python -m benchmarks.measure_cost [TASK ...] [--repeats N] [--objective time|examples|balanced]

A plain step is an optimizer step at the task's default batch, as the pilot timed it. "Whole" is the sum that the plan states; "clock"
is the wall time of the whole call, from outside and after one plan that sets the process up, over the same step.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import torch

from batchwright.planning.choose import OBJECTIVES
from batchwright.planning.plan import Plan
from batchwright.planning.planner import plan
from batchwright.tasks.registry import REGISTRY

NAMES = ("digits-cnn", "char-gpt")


def spanned(values: list[float]) -> str:
    """The median and, in brackets, the smallest and the largest."""
    return f"{statistics.median(values):.0f} ({min(values):.0f}–{max(values):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*", default=NAMES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--objective", default="balanced", choices=OBJECTIVES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = os.environ.get("BATCHWRIGHT_DATA")
    columns = ("memory", "pilot", "noise", "throughput", "stability", "lr trial")
    print(
        f"| task | plain step | whole | clock | {' | '.join(columns)} |\n|---|---:|{'---|' * (2 + len(columns))}",
        flush=True,
    )
    for name in options.tasks:
        task = REGISTRY[name].make(Path(root) if root else None, None)
        found: list[tuple[Plan, float, float]] = []
        for seed in range(options.repeats):
            start = time.perf_counter()
            one = plan(task, options.objective, seed=seed, device="cpu")
            found.append((one, time.perf_counter() - start, one.cost.seconds / one.cost.plain_steps))
        parts = [spanned([one.cost.parts[part] for one, _, _ in found]) for part in columns]
        whole = spanned([one.cost.plain_steps for one, _, _ in found])
        clock = spanned([seconds / unit for _, seconds, unit in found])
        unit_ms = 1e3 * statistics.median(unit for _, _, unit in found)
        print(f"| {name} | {unit_ms:.2f} ms | {whole} | {clock} | {' | '.join(parts)} |", flush=True)


if __name__ == "__main__":
    main()
