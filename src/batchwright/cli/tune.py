"""``batchwright tune``: training settings searched in a few rounds of parallel trials that are planned beforehand."""

from pathlib import Path
from typing import Annotated, Any

import typer

from batchwright.cli.options import DataRoot, Device, Json, MaxExamples, Out, Resume, Seed, TaskName, Workers
from batchwright.cli.output import console, errors, number, print_json, progress_bar


def tune(
    task: TaskName,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            help="What is searched: lr=log:1e-4:1,batch_size=log2:16:512,momentum=0.5:0.99,optimizer=sgd|adamw.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="How many.", show_default="4")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="Trials in a round.", show_default="8")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            min=1,
            help="In all, in rounds whose lengths a schedule chooses; instead of --parallel.",
            show_default=False,
        ),
    ] = None,
    robust: Annotated[
        str | None,
        typer.Option(
            "--robust",
            help="What is recommended keeps its value when each number is off by this: 10%, or lr=50%,momentum=2%.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="gp-bucb, bpe, ucb-pe, thompson; with --robust robust-gp-bucb or robust-bpe.",
            show_default="gp-bucb, or robust-gp-bucb with --robust",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="loss, or one of the task's metrics.", show_default="that of its target"),
    ] = None,
    max_examples: MaxExamples = None,
    early_stop: Annotated[
        bool,
        typer.Option("--early-stop/--no-early-stop", help="End trials that have no chance against earlier rounds."),
    ] = True,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds after which a trial fails.", show_default=False)
    ] = None,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Of a trial whose worker died.")] = 2,
    on_failure: Annotated[
        str,
        typer.Option("--on-failure", help="A trial without a value is taken for the worst seen; or exclude, or retry."),
    ] = "worst",
    same_seed: Annotated[
        bool, typer.Option("--same-seed", help="One seed for all trials, instead of one each.")
    ] = False,
    micro_batch_size: Annotated[int | None, typer.Option("--micro-batch-size", min=1, show_default=False)] = None,
    engine: Annotated[str, typer.Option("--engine", help="local: processes here; ray: actors of a cluster.")] = "local",
    workers: Workers = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="Of an existing cluster, such as auto.", show_default="a local one"),
    ] = None,
    optuna: Annotated[
        Path | None,
        typer.Option(
            "--optuna", help="Also write the trials to this Optuna journal, for optuna-dashboard.", show_default=False
        ),
    ] = None,
    resume: Resume = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Search learning rate, batch size and more in few parallel rounds; what is recommended comes with a bound.

    Example: batchwright tune digits-cnn --space lr=log:1e-3:1,batch_size=log2:16:512 --max-examples 8000 --out runs/tune
    """
    from batchwright.core.errors import InputError
    from batchwright.tasks.loading import check_task, load_task
    from batchwright.tuning.journal import Written
    from batchwright.tuning.search import tune as run_search
    from batchwright.tuning.settings import describe_plan, plan_of

    if out is None:
        raise InputError("--out must name a folder for the search's journal, got none; for instance --out runs/tune")
    if space is None and not resume:
        raise InputError(
            "--space must say what is searched, got none; for instance --space lr=log:1e-4:1,batch_size=log2:16:512"
        )
    check_task(load_task(task, data_root=data_root))
    there = Written(out) if resume else None
    plan = there.settings.plan if there else _plan(plan_of, space, rounds, parallel, trials)
    if not json:
        console().print(f"{describe_plan(plan)}{f'; {len(there.trials)} trials are there already' if there else ''}.")
    with progress_bar() as bar:
        line = bar.add_task("tuning", total=sum(plan), note="")

        def on_trial(trial: Any, ended: int, total: int) -> None:
            note = f"round {trial.round + 1} of {len(plan)}; {trial.outcome.status}, {number(trial.outcome.value)}"
            bar.update(line, completed=ended, total=total, note=note)

        found = run_search(
            task,
            space,
            rounds=rounds,
            parallel=parallel,
            trials=trials,
            robust=robust,
            method=method,
            metric=metric,
            max_examples=max_examples,
            early_stop=early_stop,
            micro_batch_size=micro_batch_size,
            timeout_s=timeout,
            retries=retries,
            on_failure=on_failure,
            same_seed=same_seed,
            engine=engine,
            workers=workers,
            ray_address=ray_address,
            out=out,
            resume=resume,
            seed=seed,
            device=device,
            data_root=data_root,
            on_trial=on_trial,
        )
    if optuna is not None:
        from batchwright import tuning

        name = tuning.export_to_optuna(out, optuna)
        errors().print(f"Written for Optuna: {optuna}, study {name}")
    _show(found, as_json=json)


def _plan(plan_of: Any, space: str | None, rounds: int | None, parallel: int | None, trials: int | None) -> Any:
    from batchwright.bandits import Space

    return plan_of(rounds, parallel, trials, dim=Space.parse(space or "").dim)


def _show(found: Any, *, as_json: bool) -> None:
    if as_json:
        result = {
            "folder": str(found.folder),
            "reason": found.reason,
            "plan": found.settings.plan,
            "trials": [trial.to_record() for trial in found.trials],
            **found.to_record(),
        }
        cost = {
            "seconds": found.seconds,
            "trial_seconds": sum(trial.outcome.seconds for trial in found.trials if trial.copied_from is None),
            "num_examples": sum(trial.outcome.num_examples for trial in found.trials if trial.copied_from is None),
        }
        print_json("tune", result, cost)
        return
    screen = console()
    for line in found.lines:
        screen.print(line)
    counts = ", ".join(f"{count} {status}" for status, count in found.counts.items())
    screen.print(f"{len(found.trials)} trials ({counts}) in {found.seconds:.0f} s. Written: {found.folder}")
