"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchwright.studies.safe_pg import experiments
from batchwright.studies.safe_pg.published import BIAS, COUNTEREXAMPLES, RULES, RUNS
from batchwright.studies.study import Cell

QUICK = tuple(name for name, run in RUNS.items() if run.quick is not None)
# Raw actions, the valid variance, the constant and the batch's own baseline of the specification's audit.
AUDIT = {"smoothness_form": "published", "baseline": "batch"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes of everything.

    Attributes:
        runs: Of the table.
        budget: Trajectories of each of them.
        num_seeds: Of each of them, and of the comparison of rules.
        rules_budget: Trajectories of the comparison of rules.
        deltas: Of that comparison.
        bias_episodes: Trajectories of the bias test.
        variance_episodes: Trajectories of the counterexample.
        audit_seeds: Runs of the safety audit at each delta.
        audit_budget: Trajectories of each of them.
        updates: Single updates for each bound, by dimension.
        part: Updates in a cell, by dimension.
    """

    runs: tuple[str, ...]
    budget: int
    num_seeds: int
    rules_budget: int
    deltas: tuple[float, ...]
    bias_episodes: int
    variance_episodes: int
    audit_seeds: int
    audit_budget: int
    updates: dict[int, int]
    part: dict[int, int]


PRESETS = {
    # A test of the machinery in seconds; not offered on the command line.
    "tiny": Preset(
        runs=("chebyshev-0.95", "hoeffding-theoretical"),
        budget=20_000,
        num_seeds=1,
        rules_budget=20_000,
        deltas=(0.95,),
        bias_episodes=5_000,
        variance_episodes=10_000,
        audit_seeds=1,
        audit_budget=10_000,
        updates={1: 1},
        part={1: 1},
    ),
    "smoke": Preset(
        runs=QUICK,
        budget=3_000_000,
        num_seeds=1,
        rules_budget=3_000_000,
        deltas=(0.95,),
        bias_episodes=1_000_000,
        variance_episodes=400_000,
        audit_seeds=2,
        audit_budget=1_000_000,
        updates={1: 20, 2: 4},
        part={1: 20, 2: 4},
    ),
    "laptop": Preset(
        runs=tuple(RUNS),
        budget=30_000_000,
        num_seeds=1,
        rules_budget=3_000_000,
        deltas=tuple(RULES),
        bias_episodes=4_000_000,
        variance_episodes=1_000_000,
        audit_seeds=5,
        audit_budget=1_000_000,
        updates={1: 100, 2: 80, 5: 20},
        part={1: 50, 2: 20, 5: 5},
    ),
    "paper": Preset(
        runs=tuple(RUNS),
        budget=30_000_000,
        num_seeds=5,
        rules_budget=3_000_000,
        deltas=tuple(RULES),
        bias_episodes=16_000_000,
        variance_episodes=4_000_000,
        audit_seeds=10,
        audit_budget=3_000_000,
        updates={1: 400, 2: 300, 5: 100},
        part={1: 50, 2: 20, 5: 5},
    ),
}


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset; runs have the seeds ``seed``, ``seed + 1``, ..."""
    size = PRESETS[preset]
    found = [Cell(name="closed-forms", run=experiments.closed_forms, weight=1e3)]
    found += [
        Cell(
            name=f"table/{name}/seed-{number}",
            run=experiments.published_run,
            arguments={"options": RUNS[name].options, "budget": size.budget, "seed": number},
            # Small batches cost more a trajectory.
            weight=size.budget * (3.0 if "empirical" in name else 1.0),
        )
        for name in size.runs
        for number in range(seed, seed + size.num_seeds)
    ]
    found += [
        Cell(
            name=f"rules/{rule}/delta-{delta:g}/seed-{number}",
            run=experiments.published_run,
            arguments={
                "options": {"bound": "chebyshev", "delta": delta, "rule": rule},
                "budget": size.rules_budget,
                "seed": number,
            },
            weight=size.rules_budget,
        )
        for delta in size.deltas
        for rule in ("published", "tight")
        for number in range(seed, seed + size.num_seeds)
    ]
    found += [
        Cell(
            name=f"scores/theta{theta:+g}",
            run=experiments.scores,
            arguments={"theta": theta, "num_episodes": size.bias_episodes, "seed": seed},
            weight=6 * size.bias_episodes,
        )
        for theta in BIAS
    ]
    found += [
        Cell(
            name=f"counterexample/discount-{discount:g}/horizon-{horizon}",
            run=experiments.counterexample,
            arguments={
                "discount": discount,
                "horizon": horizon,
                "num_episodes": size.variance_episodes,
                "seed": seed,
            },
            weight=size.variance_episodes * horizon / 10,
        )
        for discount, horizon in COUNTEREXAMPLES
    ]
    found += [
        Cell(
            name=f"audit/{name}/delta-{delta:g}/seed-{number}",
            run=experiments.audit,
            arguments={"options": {**options, "delta": delta}, "budget": size.audit_budget, "seed": number},
            weight=size.audit_budget,
        )
        for name, options in (("as-specified", AUDIT), ("default", {}))
        for delta in (0.95, 0.05)
        for number in range(seed, seed + size.audit_seeds)
    ]
    found += [
        Cell(
            name=f"updates/dim-{dim}/{bound}/from-{first}",
            run=experiments.single_updates,
            arguments={
                "dim": dim,
                "bound": bound,
                "first": first,
                "count": min(size.part[dim], number - first),
                "seed": seed,
            },
            weight=1e6 * dim**2 * size.part[dim] / 50,
        )
        for dim, number in size.updates.items()
        for bound in experiments.BOUNDS
        for first in range(0, number, size.part[dim])
    ]
    return found
