"""``batchwright plan``: measure and decide."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from batchwright.cli.options import DataRoot, Device, Json, MaxBatchSize, MaxGradNorm, Objective, Out, Seed, TaskName
from batchwright.cli.output import console, interval_text, number, print_json, progress_bar


def plan(
    task: TaskName,
    objective: Objective = "balanced",
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure the critical batch size by branches from the pilot; costs more."),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Sweep batch size and lr around the plan and print the regret; costs much more."),
    ] = False,
    verify_seeds: Annotated[
        int, typer.Option("--verify-seeds", min=1, help="Repeats of each setting of the sweep.")
    ] = 3,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens", help="Plan a run of Scion for a budget of tokens: 10M, 1.3B, 500k.", show_default=False
        ),
    ] = None,
    base_batch_size: Annotated[
        int | None,
        typer.Option(
            "--base-batch-size", min=1, help="With --tokens: of settings tuned at --base-tokens.", show_default="found"
        ),
    ] = None,
    base_lr: Annotated[
        float | None, typer.Option("--base-lr", help="The same: their step size.", show_default="found")
    ] = None,
    base_tokens: Annotated[
        str | None, typer.Option("--base-tokens", help="The same: their budget.", show_default="found")
    ] = None,
    restart_at: Annotated[
        str | None,
        typer.Option(
            "--restart-at",
            help="With --tokens: totals at which the run would first have ended, as '1M 4M'.",
            show_default=False,
        ),
    ] = None,
    budget_steps: Annotated[
        float | None,
        typer.Option(
            "--budget-steps",
            help="About what measuring may cost, in plain steps.",
            show_default="300; with --tokens a tenth of the run, 300 to 1000",
        ),
    ] = None,
    budget_seconds: Annotated[
        float | None, typer.Option("--budget-seconds", help="The same, in seconds.", show_default=False)
    ] = None,
    max_batch_size: MaxBatchSize = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Bytes that a step may take: 300M, 8G.", show_default="a part of what is free"),
    ] = None,
    regime: Annotated[
        str,
        typer.Option("--regime", help="keep-epochs, or keep-updates: as many updates as at the default batch size."),
    ] = "keep-epochs",
    lr_rule: Annotated[
        str | None,
        typer.Option(
            "--lr-rule",
            help="gain, linear, square-root or keep (docs/batch_changes.md).",
            show_default="the optimizer's",
        ),
    ] = None,
    max_grad_norm: MaxGradNorm = None,
    gradient_noise: Annotated[
        bool,
        typer.Option("--gradient-noise", help="Keep the lr and the small batch's noise instead of scaling the lr."),
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Measure a training job and decide batch size, micro-batch size, learning rate and momentum.

    With --tokens: batch size and step size of a Scion run for that budget, and the regime that it is in (docs/token_budget.md).

    Example: batchwright plan digits-cnn --objective time --out runs/plan
    """
    from batchwright.adapt.amounts import parse_count
    from batchwright.cli.token_plan import TokenRequest, plan_for_tokens
    from batchwright.core.errors import InputError
    from batchwright.core.records import make_folder
    from batchwright.planning.budget import Budget
    from batchwright.planning.planner import plan as make_plan
    from batchwright.tasks.loading import check_task, load_task

    request = TokenRequest.parse(tokens, base_batch_size, base_lr, base_tokens, restart_at)
    if request is not None:
        others = {
            "--objective": objective != "balanced",
            "--calibrate": calibrate,
            "--verify": verify,
            "--regime": regime != "keep-epochs",
            "--lr-rule": lr_rule is not None,
            "--max-grad-norm": max_grad_norm is not None,
            "--gradient-noise": gradient_noise,
        }
        given = [name for name, is_given in others.items() if is_given]
        if given:
            raise InputError(
                f"{given[0]} must be left out with --tokens, got both; batch size and step size of Scion follow from the budget alone"
            )
    memory_bytes = None if memory is None else parse_count("memory", memory.strip().removesuffix("B"))
    folder = make_folder(out) if out is not None else None
    loaded = load_task(task, data_root=data_root)
    check_task(loaded)
    if request is not None:
        plan_for_tokens(
            loaded,
            request,
            budget_steps,
            budget_seconds,
            seed=seed,
            device=device,
            max_batch_size=max_batch_size,
            memory_bytes=memory_bytes,
            folder=folder,
            as_json=json,
        )
        return
    with progress_bar() as bar:
        line = bar.add_task("measuring", total=None, note="")
        found = make_plan(
            loaded,
            objective,
            Budget(plain_steps=300.0 if budget_steps is None else budget_steps, seconds=budget_seconds),
            calibrate=calibrate,
            seed=seed,
            device=device,
            max_batch_size=max_batch_size,
            memory_bytes=memory_bytes,
            regime=regime,
            lr_rule=lr_rule,
            max_grad_norm=max_grad_norm,
            gradient_noise=gradient_noise,
            on_progress=lambda words: bar.update(line, note=words),
        )
    path = found.save(folder) if folder is not None else None
    verification = _verify(loaded, found, folder, verify_seeds, device, data_root) if verify else None
    if json:
        result: dict[str, Any] = {"plan": replace(found, environment={}), "verification": verification}
        print_json("plan", result, found.cost, found.environment["device"])  # type: ignore[arg-type]
        return
    _print(found, path)
    if verification is not None:
        _print_verification(verification)


def _verify(task: Any, plan: Any, folder: Path | None, num_seeds: int, device: str, data_root: Path | None) -> Any:
    import tempfile

    from batchwright.training.sweep import Trial
    from batchwright.training.verify import verify

    start = time.perf_counter()
    with progress_bar() as bar, tempfile.TemporaryDirectory() as scratch:
        line = bar.add_task("verifying", total=None, note="")

        def on_trial(number: int, total: int, trial: Trial) -> None:
            note = f"batch {trial.batch_size} lr {trial.lr:.3g}: {'reached' if trial.reached else 'not reached'}"
            bar.update(line, completed=number, total=total, note=f"{note}, {time.perf_counter() - start:.0f} s")

        where = folder / "verify" if folder is not None else Path(scratch)
        return verify(task, plan, out=where, num_seeds=num_seeds, device=device, on_trial=on_trial)


def _print(plan: Any, path: Path | None) -> None:
    screen = console()
    table = Table(title=f"Plan for {plan.task} (objective: {plan.objective})", title_justify="left", expand=False)
    for heading in ("what", "value", "95 % interval", "why"):
        table.add_column(heading, overflow="fold")
    rows = [
        ("batch size", str(plan.batch_size), "batch_size"),
        ("micro-batch size", str(plan.micro_batch_size), "micro_batch_size"),
        ("lr", number(plan.lr), "lr"),
        ("momentum", number(plan.momentum), "momentum"),
        ("noise scale", "", "noise_scale"),
        ("critical batch size", "", "critical_batch_size"),
    ]
    if plan.regime is not None:
        rows.append(("updates", f"{plan.regime.num_updates:,}", "regime"))
        if plan.regime.max_grad_norm is not None:
            rows.append(("clipping", number(plan.regime.max_grad_norm), "max_grad_norm"))
        if "gradient_noise" in plan.reasons:
            size = plan.regime.noise_batch_size
            rows.append(("gradient noise", "none" if size is None else f"of batch {size}", "gradient_noise"))
    if "beta2" in plan.reasons:
        rows.insert(4, ("beta2", f"{plan.beta2:.5g}", "beta2"))
    if "normalization" in plan.reasons:
        rows.append(("batch normalization", "", "normalization"))
    for name, value, key in rows:
        interval = plan.intervals.get(key)
        # What was not estimated, as the task's own lr at its own batch size, has no interval.
        ends = f"{number(interval.low)} to {number(interval.high)}" if interval and interval.low < interval.high else ""
        table.add_row(name, value or (number(interval.value) if interval else ""), ends, plan.reasons[key])
    screen.print(table)
    excess = plan.intervals["excess_time"]
    screen.print(
        f"How sure: at this batch size the time to target is {excess.value:.0%} above the fastest size's in the model "
        f"({excess.low:.0%} to {excess.high:.0%} over all that is uncertain)."
    )
    cost = plan.cost
    parts = ", ".join(f"{name} {value:.0f}" for name, value in cost.parts.items())
    screen.print(
        f"Cost: {cost.plain_steps:.0f} plain steps ({parts}), {cost.num_examples:,} examples, {cost.seconds:.1f} s."
    )
    for warning in plan.evidence.warnings:
        screen.print(f"Note: {warning}")
    if path is not None:
        screen.print(f"Written: {path}")


def _print_verification(found: Any) -> None:
    screen = console()
    for unit in ("examples", "seconds"):
        regret, best = getattr(found, f"regret_{unit}"), getattr(found, f"best_{unit}")
        if regret is None:
            screen.print(f"Regret in {unit}: unknown, no run reached the target.")
        else:
            screen.print(
                f"Regret in {unit} to target: {interval_text(regret)}; best found: batch size {best.batch_size}, lr {best.lr:.3g}."
            )
    for note in found.notes:
        screen.print(f"Note: {note}")
