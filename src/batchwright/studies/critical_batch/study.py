"""The critical batch size of each optimizer on a task, and a race to the loss that the first one reaches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchwright.core.errors import InputError
from batchwright.data.access import num_examples
from batchwright.optim.param_groups import param_groups
from batchwright.studies.critical_batch.figures import critical_figure, race_figure
from batchwright.studies.critical_batch.presets import PRESETS, RACE, Preset, cells_of
from batchwright.studies.critical_batch.race import race_results
from batchwright.studies.critical_batch.results import by_optimizer
from batchwright.studies.critical_batch.rows import (
    compared_rows,
    critical_rows,
    race_rows,
    reached_rows,
    target_words,
)
from batchwright.studies.critical_batch.specs import optimizer_names, spec_of
from batchwright.studies.study import Study, Summary, there
from batchwright.tasks.loading import load_task
from batchwright.tasks.optimizers import KINDS
from batchwright.tasks.task import Task

OPTIONS = {"optimizer": "adamw,muon,scion,sgd", "task": "digits-mlp"}


NOTES = (
    "The learning rate is constant in each run, without warm-up. It is chosen on a seed apart from those of the repeats; what the "
    "choice may be off by is not in the intervals, which are over the seeds of the repeats.",
    "Momentum, beta2 and weight decay stay the same at all batch sizes.",
    "The critical size is that of steps(B) = S_min (1 + B_crit / B), fitted to logarithms; its interval is Student's, with the "
    "jackknife's error.",
)


def configure(options: Mapping[str, str], data_root: Path | None) -> Study:
    """The study on the task and the optimizers of the options.

    Raises:
        InputError: If an optimizer is unknown, or the task has no target.
        TaskError: If there is no such task.
    """
    optimizers, name = optimizer_names(options["optimizer"]), options["task"]
    task = load_task(name, data_root=data_root)
    if task.target is None:
        raise InputError(f"--task must have a target, got none for {name!r}; give it a batchwright.Target")

    target = task.target

    def summarise(preset: str, results: Mapping[str, Mapping[str, Any]]) -> Summary:
        planned = PRESETS[preset].num_seeds
        swept = by_optimizer(results, optimizers, planned)
        raced = race_results(results, optimizers, target, planned)
        figures = (critical_figure(swept, target_words(target)), race_figure(raced, target))
        return Summary(
            rows=(
                *critical_rows(swept),
                *compared_rows(swept),
                *reached_rows(swept, target),
                *race_rows(raced, target),
            ),
            figures=there(*figures),
            notes=(*_told(task, optimizers, PRESETS[preset]), *NOTES),
        )

    return Study(
        name=CRITICAL_BATCH.name,
        title=f"{CRITICAL_BATCH.title}: {task.name}",
        source=CRITICAL_BATCH.source,
        cells=lambda preset, seed: cells_of(PRESETS[preset], seed, optimizers=optimizers, task_name=name, task=task),
        summarise=summarise,
        more_presets=CRITICAL_BATCH.more_presets,
        headline=CRITICAL_BATCH.headline,
    )


def _told(task: Task, optimizers: Sequence[str], preset: Preset) -> list[str]:
    """What was compared, on what."""
    assert task.target is not None
    specs = [spec_of(name, task) for name in optimizers]
    words = f"target {target_words(task.target)}"
    if preset.race_steps:
        words = f"{task.target.metric} of {optimizers[0]} after {preset.race_steps} steps,"
    judges = num_examples(task.evaluation if task.evaluation is not None else task.train, "evaluation")
    found = [
        f"Task {task.name}, its own batch size {task.batch_size}; {words} on "
        f"{min(judges, preset.judges)} of {judges} examples of its evaluation set, the same for every optimizer.",
        "Settings beside the learning rate: "
        + "; ".join(
            f"{spec.name} momentum {spec.momentum:g}, beta2 {spec.beta2:g}, weight decay {spec.weight_decay:g}"
            if KINDS[spec.name].update == "normalised"
            else f"{spec.name} momentum {spec.momentum:g}, weight decay {spec.weight_decay:g}"
            for spec in specs
        )
        + ".",
    ]
    if "muon" in optimizers:
        groups = param_groups(task.make_model(0))
        if not any(group["optimizer"] == "muon" for group in groups):
            found.append(
                f"No parameter of {task.name} is a matrix of Muon's: its groups are all AdamW's, and so is what is compared."
            )
    return found


def _unconfigured(*_: Any) -> Any:
    raise InputError("the study critical-batch must be configured with its options first: Study.configure")


CRITICAL_BATCH = Study(
    name="critical-batch",
    title="Critical batch sizes of optimizers",
    source="after Kim et al. (2026), arXiv:2603.26554, whose claim it tests, and McCandlish et al. (2018), arXiv:1812.06162",
    cells=_unconfigured,
    summarise=_unconfigured,
    more_presets=(RACE,),
    options=OPTIONS,
    configure=configure,
    headline="critical batch size of muon over that of sgd",
)
