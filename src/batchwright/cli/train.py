"""``batchwright train``: train with a plan, a fixed batch size or a controller."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from batchwright.cli.options import (
    DataRoot,
    Device,
    Json,
    MaxBatchSize,
    MaxExamples,
    MaxGradNorm,
    Out,
    Resume,
    Seed,
    TaskName,
)
from batchwright.cli.output import console, number, print_json, progress_bar

INTERRUPTED = 130


def train(
    task: TaskName,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            help="A plan.json or its folder, of either kind; `batchwright plan --out` writes one.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help="Batch-size controller, such as noise-scale, 'schedule:0:64 50k:128', or file.py:MyPolicy (docs/controllers.md).",
            show_default="fixed",
        ),
    ] = None,
    policy_option: Annotated[
        list[str] | None,
        typer.Option("--policy-option", help="An option of the controller, name=value; may be repeated."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, show_default=False)] = None,
    micro_batch_size: Annotated[int | None, typer.Option("--micro-batch-size", min=1, show_default=False)] = None,
    max_batch_size: MaxBatchSize = None,
    lr: Annotated[float | None, typer.Option("--lr", help="At the batch size.", show_default=False)] = None,
    max_examples: MaxExamples = None,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=1, help="Optimizer steps.")] = 200,
    stop_at_target: Annotated[
        bool | None,
        typer.Option(
            "--stop-at-target/--no-stop-at-target",
            help="End at the task's target.",
            show_default="yes, except with a plan for a budget of tokens",
        ),
    ] = None,
    stability: Annotated[
        bool,
        typer.Option("--stability", help="Record batch sharpness and its levels, within --stability-budget."),
    ] = False,
    stability_budget: Annotated[
        float,
        typer.Option(
            "--stability-budget", help="Seconds of --stability's readings for a second of training; inf: at any price."
        ),
    ] = 0.05,
    parallel: Annotated[
        str,
        typer.Option(
            "--distributed", help="Under torchrun: ddp, the whole model on each rank; or fsdp, sharded over the ranks."
        ),
    ] = "ddp",
    max_grad_norm: MaxGradNorm = None,
    noise_batch_size: Annotated[
        int | None,
        typer.Option(
            "--noise-batch-size",
            min=1,
            help="Give gradients the covariance of a batch of this size by multiplicative noise.",
            show_default="the plan's",
        ),
    ] = None,
    lr_milestone: Annotated[
        list[float] | None,
        typer.Option("--lr-milestone", help="Share of the run after which the lr is multiplied; may be repeated."),
    ] = None,
    lr_decay: Annotated[float, typer.Option("--lr-decay", help="By what --lr-milestone multiplies the lr.")] = 0.1,
    diffusion: Annotated[
        bool, typer.Option("--diffusion", help="Record how far the weights have come, and what law that follows.")
    ] = False,
    resume: Resume = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Train a task and write its records and checkpoints to --out; on several processes under torchrun (docs/distributed.md).

    Example: batchwright train digits-cnn --policy noise-scale --out runs/adaptive
    """
    from batchwright.adapt import parse_policy
    from batchwright.core.errors import InputError
    from batchwright.planning.token_plan import load_plan
    from batchwright.tasks.loading import check_task, load_task
    from batchwright.training.group import process_group
    from batchwright.training.loop import train as run_training
    from batchwright.training.run import Progress
    from batchwright.training.settings import STABILITY_EVERY

    # Of several ranks the first alone shows, prints and writes; what is wrong on one ends all.
    with process_group(device) as group:
        with group.together():
            if out is None:
                raise InputError("--out must name a folder for the run's records, got none; for instance --out runs/a")
            controller: Any = None
            if policy is not None:
                limit = [f"max_batch_size={max_batch_size}"] if max_batch_size and policy != "fixed" else []
                controller = parse_policy(policy, [*limit, *(policy_option or [])])
            elif policy_option:
                raise InputError(
                    f"--policy-option must go with --policy, got {policy_option[0]!r} alone; name the policy"
                )
            loaded = load_task(task, data_root=data_root)
            check_task(loaded)
            chosen = load_plan(plan) if plan is not None else None
        with progress_bar(shown=group.rank == 0) as bar:
            line = bar.add_task("training", total=None, note="")

            def on_progress(now: Progress) -> None:
                note = f"step {now.step}, batch {now.batch_size}"
                bar.update(line, completed=now.num_examples, total=now.max_examples, note=note)

            run = run_training(
                loaded,
                chosen,
                out=out,
                policy=controller,
                batch_size=batch_size,
                micro_batch_size=micro_batch_size,
                lr=lr,
                seed=seed,
                max_examples=max_examples,
                checkpoint_every=checkpoint_every,
                stop_at_target=stop_at_target,
                stability_every=STABILITY_EVERY if stability else None,
                stability_budget=None if stability_budget == math.inf else stability_budget,
                max_grad_norm=max_grad_norm,
                noise_batch_size=noise_batch_size,
                lr_milestones=tuple(lr_milestone or ()),
                lr_decay=lr_decay,
                diffusion=diffusion,
                resume=resume,
                device=device,
                parallel=parallel,
                on_progress=on_progress,
            )
        if group.rank == 0:
            _show(run, device, as_json=json)
    if run.reason == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _show(run: Any, device: str, *, as_json: bool) -> None:
    if not as_json:
        _print(run)
        return
    result = {
        "folder": str(run.folder),
        "reason": run.reason,
        "label": run.label,
        "seed": run.seed,
        "batch_size": run.batch_size,
        "num_steps": run.num_steps,
        "num_examples": run.num_examples,
        "to_target": run.to_target,
        "values": run.values,
        "notes": run.notes,
    }
    cost = {"seconds": run.train_s, "num_steps": run.num_steps, "num_examples": run.num_examples}
    print_json("train", result, cost, device)


def _print(run: Any) -> None:
    screen = console()
    for note in run.notes:
        screen.print(f"Note: {note}")
    values = ", ".join(f"{name} {number(value)}" for name, value in run.values.items())
    screen.print(
        f"{run.num_steps:,} steps, {run.num_examples:,} examples, {run.train_s:.1f} s of training; {values}; "
        f"last batch size {run.batch_size}."
    )
    if run.to_target is not None:
        found = run.to_target
        screen.print(
            f"Target reached after {found.steps:,.0f} steps, {found.examples:,.0f} examples, {found.seconds:.1f} s."
        )
    elif run.reason == "limit":
        screen.print("Target not reached before the limit of examples.")
    if run.reason == "interrupted":
        screen.print("Interrupted; go on with the same command and --resume.")
    screen.print(f"Written: {run.folder}")
