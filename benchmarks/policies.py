"""Each adaptive policy against the best fixed batch size of a sweep with a tuned learning rate, at equal examples and at equal updates.

    python -m benchmarks.policies --task char-gpt --out runs/policies   (real data by BATCHWRIGHT_DATA; resumable)
    python -m benchmarks.policies --table --out runs/policies [--docs docs/policies.md]

Every run has the same example budget, the same warm-up over its first 5 %, and the same cosine decay of the learning rate to zero,
both by examples. A policy that stands in place of a decay (marked so) has a constant learning rate after the same warm-up. The steps:

1. *Tuning*, on one seed that is used for nothing else: the lr of each fixed batch size, on a grid of factor 2, extended until the
   best is inside the grid. Sizes go by factors of 2 and are extended downwards until the best is inside too, or `SMALLEST`.
2. *Fixed batch sizes* at their tuned lr, on the evaluation seeds. The *fixed optimum* ``B*`` is the largest size whose mean held-out
   loss at the end is within half a percent of the lowest: of sizes that are as good, the one with the fewest updates. That it is
   picked on the evaluation seeds favours it, not the policies.
3. *Policies* on the same seeds, from ``B*`` with its tuned lr, with their default options. Sizes are kept between ``B*/4`` and the
   largest of the sweep. Learning rate and the rest follow the batch by the optimizer's rules. None is tuned but "schedule, tuned":
   of `SCHEDULES` the one with the fewest updates that on the tuning seed ends within half a percent of the fixed optimum there.
4. The fixed optimum on *shorter budgets*, its schedule as much shorter: what fewer updates cost at its own size.

"Equal examples" is the same budget: there the table has the final loss less that of ``B*`` on the same seeds, the updates over those of
``B*``, and the updates until the loss is at the final loss of ``B*`` with the same seed (both on the thinned evaluation set, linear
between looks). "Equal updates" is the policy's final loss less that of ``B*`` with a budget of as many updates, so of fewer examples
where a policy grows (linear in the logarithm between the budgets run). "Equal updates and examples" is its loss less that of a *fixed*
batch size of as many updates, which is the policy's mean size (linear in the logarithm of the updates between the sizes of the sweep).
A growing batch always needs fewer updates than the size it started from; whether it beats a larger fixed one is what the last says.
Intervals: 95 %, Student's t over paired differences of the seeds. CABS goes with SGD without momentum alone, so it has a sweep of its
own, ``fashion-cnn:plain-sgd``.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from batchwright import adapt
from batchwright.adapt import Controller, Fixed
from batchwright.core.records import make_folder
from batchwright.tasks.loading import load_task
from batchwright.tasks.task import OptimizerSpec
from benchmarks.policy_runs import WARM_UP, Case, Setting, train_run
from benchmarks.policy_table import TIE, draw, load, loss_of, optimum, tables, write_docs

TUNING_SEED = 100
# Below these, runs of more updates than the time of the study allowed.
SMALLEST = {"char-gpt": 2, "cifar-resnet": 2, "fashion-cnn": 8, "fashion-cnn:plain-sgd": 8}
SHORTER = (0.7, 0.4)
# Where the batch grows, in shares of the budget, and to how many times the first size; from the fewest updates to the most.
SCHEDULES: tuple[tuple[tuple[float, int], ...], ...] = (
    ((0.5, 2), (0.75, 4)),
    ((0.625, 2), (0.8125, 4)),
    ((0.75, 4),),
    ((0.75, 2), (0.875, 4)),
    ((0.875, 4),),
)
# Example budgets, so that a run takes 10 to 25 seconds of one core; thinning of the evaluation set on the way; first batch sizes.
CASES: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "char-gpt": (6144, 3, (8, 16, 32, 64, 128)),
    "fashion-cnn": (40_000, 10, (8, 16, 32, 64, 128, 256)),
    "cifar-resnet": (7680, 10, (8, 16, 32, 64, 128)),
    "fashion-cnn:plain-sgd": (40_000, 10, (8, 16, 32, 64)),
}
# First guess of the lr at the smallest size, in units of the task's; the grid is of powers of 2 of the task's.
FIRST_GUESS = {"fashion-cnn:plain-sgd": 8.0}


def make_case(name: str) -> Case:
    task = load_task(name.partition(":")[0])
    if name.endswith(":plain-sgd"):  # for CABS, which is derived for it
        spec = task.optimizer
        task = replace(
            task, optimizer=OptimizerSpec(name="sgd", lr=spec.lr, momentum=0.0, weight_decay=spec.weight_decay)
        )
    budget, thinning, _ = CASES[name]
    return Case(task=task, max_examples=budget, thinning=thinning)


class Runs:
    """The runs of a task, one JSON line each; one that is there already is not made again."""

    def __init__(self, path: Path, case: Case) -> None:
        self._path, self._case = path, case
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    self.lines.append(json.loads(line))
                except json.JSONDecodeError:
                    continue  # torn by a kill

    def get(self, kind: str, label: str, setting: Setting) -> dict[str, Any]:
        key = {
            "kind": kind,
            "label": label,
            "policy": repr(setting.policy),
            "batch_size": setting.batch_size,
            "lr": setting.lr,
            "seed": setting.seed,
            "max_examples": setting.max_examples,
            "decays": setting.decays,
        }
        for line in self.lines:
            if all(line.get(name) == value for name, value in key.items()):
                return line
        found = {**key, **train_run(self._case, setting)}
        with self._path.open("a") as file:
            if self._path.stat().st_size and not self._path.read_bytes().endswith(b"\n"):
                file.write("\n")
            file.write(json.dumps(found) + "\n")
        self.lines.append(found)
        shown = "diverged" if found["loss"] is None else f"{found['loss']:.4f}"
        print(
            f"{kind} {label} seed {setting.seed}: batch {setting.batch_size}, lr {setting.lr:.4g}: loss {shown}, "
            f"{found['updates']} updates, {found['cpu_s']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        return found


def tune(runs: Runs, case: Case, size: int, guess: int) -> int:
    """Power of 2 of the task's lr that is best at a size on the tuning seed, inside the grid tried; begun around ``guess``."""

    def loss(power: int) -> float:
        setting = Setting(
            policy=Fixed(),
            batch_size=size,
            lr=case.task.optimizer.lr * 2.0**power,
            seed=TUNING_SEED,
            max_examples=case.max_examples,
            looks=False,
        )
        return loss_of(runs.get("tuning", f"fixed {size}", setting))

    tried = {power: loss(power) for power in (guess - 1, guess, guess + 1)}
    while True:
        best = min(tried, key=lambda power: tried[power])
        edge = {min(tried): best - 1, max(tried): best + 1}.get(best)
        if edge is None:
            return best
        tried[edge] = loss(edge)


def seeded(
    make: Callable[[int], Setting], seeds: Iterable[int], runs: Runs, kind: str, label: str
) -> list[dict[str, Any]]:
    return [runs.get(kind, label, make(seed)) for seed in seeds]


def fixed_setting(case: Case, size: int, lr: float, share: float = 1.0) -> Callable[[int], Setting]:
    budget = max(size, round(share * case.max_examples / size) * size)
    return lambda seed: Setting(policy=Fixed(), batch_size=size, lr=lr, seed=seed, max_examples=budget)


def policies(case: Case, base: int, largest: int) -> dict[str, tuple[Controller, int, bool]]:
    """Label to controller, first batch size, and whether the learning rate decays beside it; those that the task's optimizer allows."""
    budget, warm = case.max_examples, round(WARM_UP * case.max_examples)
    bounds = {"max_batch_size": largest, "min_batch_size": max(1, base // 4)}
    if case.task.optimizer.name == "sgd" and case.task.optimizer.momentum == 0:
        return {"cabs, in place of decay": (adapt.Cabs(**bounds), base, False)}
    found: dict[str, tuple[Controller, int, bool]] = {
        "geometric, thirds": (adapt.Geometric(every=math.ceil(budget / 3), max_batch_size=largest), base, True),
        "geometric, in place of decay": (
            adapt.Geometric(every=math.ceil(budget / 6), max_batch_size=largest, keep_lr=True),
            base,
            False,
        ),
        "schedule, 2x at 1/2, 4x at 3/4": (
            schedule_of(case, base, SCHEDULES[0]),
            base,
            True,
        ),
        "noise-scale": (adapt.NoiseScale(**bounds), base, True),
        "norm-test": (adapt.NormTest(**bounds), base, True),
        "simigrad": (adapt.SimiGrad(**bounds), base, True),
    }
    if case.task.optimizer.name == "sgd":
        for times in (2, 4):
            found[f"adascale, {times}x"] = (adapt.AdaScale(base_batch_size=base), times * base, True)
    else:
        found["seesaw, in place of decay"] = (
            adapt.Seesaw(start=warm, end=budget, max_batch_size=largest),
            base,
            False,
        )
    if not any(isinstance(module, torch.nn.BatchNorm2d) for module in case.task.make_model(0).modules()):
        found["inner-product-test"] = (adapt.InnerProductTest(**bounds), base, True)
        found["dive-batch"] = (adapt.DiveBatch(**bounds), base, True)
    return found


def schedule_of(case: Case, base: int, steps: tuple[tuple[float, int], ...]) -> Controller:
    later = [f"{round(share * case.max_examples)}:{times * base}" for share, times in steps]
    return adapt.Schedule(schedule=" ".join([f"0:{base}", *later]))


def tuned_schedule(runs: Runs, case: Case, base: int, lr: float) -> Controller | None:
    """The schedule with the fewest updates that is as good as the fixed size on the tuning seed; None where none is."""

    def setting(policy: Controller) -> Setting:
        return Setting(
            policy=policy, batch_size=base, lr=lr, seed=TUNING_SEED, max_examples=case.max_examples, looks=False
        )

    wanted = (1 + TIE) * loss_of(runs.get("tuning", f"fixed {base}", setting(Fixed())))
    for steps in SCHEDULES:
        policy = schedule_of(case, base, steps)
        if loss_of(runs.get("tuning", "schedule", setting(policy))) <= wanted:
            return policy
    return None


def beside_smaller(runs: Runs, case: Case, best: int, guess: int, seeds: range) -> None:
    """Where the fixed optimum is the smallest size of the sweep, half of it for the record; nothing starts from there."""
    size = best // 2
    lr = case.task.optimizer.lr * 2.0 ** tune(runs, case, size, guess)
    seeded(fixed_setting(case, size, lr), seeds, runs, "smaller", f"fixed {size}")


def run_task(name: str, folder: Path, seeds: range) -> None:
    case = make_case(name)
    runs = Runs(path_of(folder, name), case)
    powers: dict[int, int] = {}
    guess = round(math.log2(FIRST_GUESS.get(name, 1.0)))

    def evaluated(size: int) -> float:
        found = seeded(fixed_setting(case, size, lr_of(size)), seeds, runs, "fixed", f"fixed {size}")
        return sum(map(loss_of, found)) / len(found)

    def lr_of(size: int) -> float:
        return case.task.optimizer.lr * 2.0 ** powers[size]

    sizes = CASES[name][2]
    for size in sizes:
        guess = powers[size] = tune(runs, case, size, guess)
    losses = {size: evaluated(size) for size in sizes}
    while optimum(losses) == min(losses) > SMALLEST[name]:
        size = min(losses) // 2
        powers[size] = tune(runs, case, size, powers[min(losses)])
        losses[size] = evaluated(size)
    best = optimum(losses)
    chosen = policies(case, best, max(losses))
    tuned = None if name.endswith(":plain-sgd") else tuned_schedule(runs, case, best, lr_of(best))
    if tuned is not None:
        chosen["schedule, tuned"] = (tuned, best, True)
    for label, (policy, first, decays) in chosen.items():

        def make(seed: int, policy: Controller = policy, first: int = first, decays: bool = decays) -> Setting:
            return Setting(
                policy=policy,
                batch_size=first,
                lr=lr_of(best),
                seed=seed,
                max_examples=case.max_examples,
                decays=decays,
            )

        seeded(make, seeds, runs, "policy", label)
    if best == min(losses):
        beside_smaller(runs, case, best, powers[best], seeds)
    for share in SHORTER:
        seeded(fixed_setting(case, best, lr_of(best), share), seeds, runs, "shorter", f"fixed {best}")


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(':', '-')}.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", action="append", choices=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("runs/policies"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--table", action="store_true", help="show the tables of the runs that are there, without running more"
    )
    parser.add_argument("--docs", type=Path, help="with --table: a page to put them into, and a picture beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        names = [name for name in CASES if path_of(options.out, name).exists()]
        found = [each for name in names if (each := load(path_of(options.out, name), name)) is not None]
        text = "\n\n".join(tables(each) for each in found)
        print(text)
        if options.docs:
            write_docs(options.docs, text)
            draw(options.docs.with_suffix(".png"), found)
        return
    make_folder(options.out)
    for name in options.task or list(CASES):
        run_task(name, options.out, range(options.seeds))


if __name__ == "__main__":
    main()
