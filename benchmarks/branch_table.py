"""Branches against the noise scale: critical and largest harmless batch size on built-in tasks, by optimizer and checkpoint.

    python -m benchmarks.branch_table [TASK ...] [--out runs/branch-table] [--print]

At each checkpoint of a run at the defaults the noise scale is measured, and branches train on from there at several batch sizes with
the plan's lr rule. Rows are appended to ``rows.jsonl`` as they are done, and those that are there are not measured again.
Learning rates of an optimizer that is not the task's own are the best of five after 100 steps. One torch thread.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from batchwright.core.errors import NonFiniteLossError, NotEnoughEvidenceError
from batchwright.core.records import make_folder
from batchwright.core.serialization import from_plain, to_plain
from batchwright.core.statistics import Interval
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.branch import branch
from batchwright.measure.noise import NoiseScale, noise_scale
from batchwright.measure.snapshot import Snapshot, train_steps
from batchwright.planning.laws import keep_half_life, scale_lr
from batchwright.planning.log_normal import inverse, product
from batchwright.tasks.loading import load_task
from batchwright.tasks.task import OptimizerSpec, Task

ROWS = "rows.jsonl"
LRS = {"sgd": (0.003, 0.01, 0.03, 0.1, 0.3), "adam": (0.0003, 0.001, 0.003, 0.01, 0.03)}
SEARCH_STEPS, JUDGED_STEPS = 100, 30
NOISE_BATCHES, MAX_NOISE_BATCHES, NOISE_BATCH_SIZE = 40, 160, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One task with what its branches may cost.

    Attributes:
        checkpoints: Steps at the defaults after which to branch: where a plan's pilot ends, and about half-way to the target.
        batch_sizes: Of the branches.
        num_examples: Of each branch.
        num_seeds: Data orders.
        num_judges: Sample that judges.
    """

    checkpoints: tuple[int, ...]
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    num_examples: int = 16_384
    num_seeds: int = 8
    num_judges: int = 1024


# Chosen by what a step costs here. A first round with a quarter of the examples left half of the rows of the tables unresolved.
LENET = Case(checkpoints=(80, 600), batch_sizes=(16, 32, 64, 128, 256, 512), num_examples=8192, num_seeds=4)
DIGITS = Case(checkpoints=(20, 60), batch_sizes=(8, 16, 32, 64, 128, 256), num_examples=2048, num_seeds=12)
CASES = {
    "digits-mlp": DIGITS,
    "digits-cnn": DIGITS,
    "noisy-quadratic": Case(checkpoints=(80, 300)),
    "uci-mlp:power-plant": Case(checkpoints=(80, 600)),
    "uci-mlp:protein": Case(checkpoints=(80, 1500)),
    "uci-mlp:adult": Case(checkpoints=(80, 300)),
    "mnist-cnn": LENET,
    "fashion-cnn": LENET,
    "cifar-resnet:8-group": Case(
        checkpoints=(80, 500), batch_sizes=(16, 32, 64, 128, 256), num_examples=2048, num_seeds=4, num_judges=256
    ),
    "char-gpt": Case(
        checkpoints=(80, 300), batch_sizes=(8, 16, 32, 64, 128), num_examples=1536, num_seeds=4, num_judges=128
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Branches at one checkpoint of one task with one optimizer.

    Attributes:
        lr: At the task's default batch size.
        checkpoint: Steps before it.
        noise_scale: There, in examples.
        critical_batch_size: By the hyperbola; None where nothing could be compared.
        largest_harmless: By the tolerance.
        tolerance: In units of the loss.
        losses: Smoothed, one a batch size.
        kappa: Critical batch size over noise scale.
        plain_steps: Cost of the branches, judging included, in steps at the defaults.
        seconds: The same by the clock.
        note: What is not resolved; empty where all is.
    """

    task: str
    optimizer: str
    lr: float
    checkpoint: int
    noise_scale: Interval
    critical_batch_size: Interval | None
    largest_harmless: Interval | None
    tolerance: float | None
    batch_sizes: tuple[int, ...]
    losses: tuple[float, ...]
    kappa: Interval | None
    num_examples: int
    num_seeds: int
    plain_steps: float
    seconds: float
    note: str


def families(task: Task) -> tuple[str, ...]:
    """The task's own optimizer first, then one of the other family."""
    return (task.optimizer.name, "adam" if task.optimizer.name == "sgd" else "sgd")


def spec_of(task: Task, name: str) -> OptimizerSpec:
    if name == task.optimizer.name:
        return task.optimizer
    base = OptimizerSpec(name=name, momentum=0.9, weight_decay=0.0)
    found = {}
    for lr in LRS["sgd" if name == "sgd" else "adam"]:
        losses: list[float] = []
        train(replace(task, optimizer=replace(base, lr=lr)), SEARCH_STEPS, losses)
        found[lr] = sum(losses[-JUDGED_STEPS:]) / JUDGED_STEPS
    # A loss that is not a number is the worst.
    return replace(base, lr=min(found, key=lambda lr: found[lr] if math.isfinite(found[lr]) else math.inf))


def train(task: Task, num_steps: int, losses: list[float]) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = task.make_model(0)
    optimizer = task.optimizer.build(model.parameters())
    more_steps(task, model, optimizer, EpochSampler(task.num_train, 0), num_steps, losses)
    return model, optimizer


def more_steps(
    task: Task,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    sampler: EpochSampler,
    num_steps: int,
    losses: list[float],
) -> None:
    train_steps(
        task,
        model,
        optimizer,
        sampler,
        batch_size=task.batch_size,
        num_steps=num_steps,
        after_step=lambda _, mean: losses.append(float(mean)),
    )


def checkpoints(task: Task, steps: tuple[int, ...]) -> Iterator[tuple[int, Snapshot, NoiseScale, float]]:
    """Step, state, noise scale and seconds of a plain step at each checkpoint of one run."""
    losses: list[float] = []
    model, optimizer = train(task, 0, losses)
    sampler, generator = EpochSampler(task.num_train, 0), torch.Generator().manual_seed(1)
    for step in steps:
        start, before = time.process_time(), len(losses)
        more_steps(task, model, optimizer, sampler, step - before, losses)
        unit = (time.process_time() - start) / (step - before)
        if not math.isfinite(losses[-1]):
            raise NonFiniteLossError(f"the loss of {task.name} must stay finite, got {losses[-1]} by step {step}")
        yield step, Snapshot.take(model, optimizer, num_steps=step), measured_noise(task, model, generator), unit


def measured_noise(task: Task, model: torch.nn.Module, generator: torch.Generator) -> NoiseScale:
    size = min(NOISE_BATCH_SIZE, task.num_train)
    count = NOISE_BATCHES
    while True:
        batches = (fetch(task.train, torch.randint(task.num_train, (size,), generator=generator)) for _ in range(count))
        found = noise_scale(model, task.loss, batches, num_micro_batches=1)
        if count >= MAX_NOISE_BATCHES or found.high < 2 * found.low:
            return found
        count *= 2


def measure(task: Task, case: Case, step: int, snapshot: Snapshot, noise: NoiseScale, unit: float) -> Row:
    base, spec = task.batch_size, task.optimizer
    turn = max(float(base), noise.value) if math.isfinite(noise.value) else float(case.batch_sizes[-1])
    start, note = time.process_time(), [] if noise.resolved else ["noise scale not resolved"]
    found = None
    try:
        found = branch(
            task,
            snapshot,
            case.batch_sizes,
            lr_rule=lambda size: scale_lr(
                spec.name, spec.lr, base_batch_size=base, batch_size=size, critical_batch_size=turn
            ),
            beta2_rule=lambda size: keep_half_life(spec.beta2, base_batch_size=base, batch_size=size),
            num_examples=case.num_examples,
            num_seeds=case.num_seeds,
            num_judges=case.num_judges,
        )
    except NotEnoughEvidenceError as error:
        note.append(str(error).removeprefix("not enough evidence: "))
    seconds = time.process_time() - start
    critical = found.critical_batch_size if found else None
    if critical and (critical.low <= 0 or math.isinf(critical.high)):
        note.append("critical size outside the sizes tried")
    if found and math.isinf(found.largest_harmless.high):
        note.append("no size tried is surely harmful")
    return Row(
        task=task.name if task.name != "cifar-resnet" else "cifar-resnet:8-group",
        optimizer=spec.name,
        lr=spec.lr,
        checkpoint=step,
        noise_scale=noise.interval,
        critical_batch_size=critical,
        largest_harmless=found.largest_harmless if found else None,
        tolerance=found.tolerance if found else None,
        batch_sizes=case.batch_sizes,
        losses=found.smoothed_losses if found else (),
        kappa=product(critical, inverse(noise.interval)) if critical and math.isfinite(noise.value) else None,
        num_examples=case.num_examples,
        num_seeds=case.num_seeds,
        plain_steps=seconds / unit,
        seconds=seconds,
        note="; ".join(note),
    )


def load_rows(folder: Path) -> tuple[Row, ...]:
    path = folder / ROWS
    if not path.exists():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(from_plain(Row, json.loads(line), ROWS) for line in lines)


def text(interval: Interval | None, digits: int = 0) -> str:
    if interval is None:
        return "–"
    value, low, high = (
        "∞" if math.isinf(each) else f"{each:.{digits}f}" for each in (interval.value, interval.low, interval.high)
    )
    return f"{value} ({low}–{high})"


def table(rows: tuple[Row, ...]) -> str:
    lines = [
        "| task | optimizer, lr | step | noise scale | critical size | largest harmless | kappa | plain steps | seconds | note |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.task} | {row.optimizer}, {row.lr:g} | {row.checkpoint} | {text(row.noise_scale)} | "
        f"{text(row.critical_batch_size)} | {text(row.largest_harmless)} | {text(row.kappa, 2)} | {row.plain_steps:.0f} | "
        f"{row.seconds:.0f} | {row.note} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("runs/branch-table"))
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the rows that are there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(options.out)
    done = {(row.task, row.optimizer, row.checkpoint) for row in load_rows(options.out)}
    for name in () if options.only_print else options.tasks:
        case, own = CASES[name], load_task(name)
        for optimizer in families(own):
            if all((name, optimizer, step) in done for step in case.checkpoints):
                continue
            task = replace(own, optimizer=spec_of(own, optimizer))
            for step, snapshot, noise, unit in checkpoints(task, case.checkpoints):
                if (name, optimizer, step) in done:
                    continue
                row = measure(task, case, step, snapshot, noise, unit)
                with (options.out / ROWS).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(to_plain(row)) + "\n")
                print(table((row,)).splitlines()[-1], flush=True)
    print(table(load_rows(options.out)))


if __name__ == "__main__":
    main()
