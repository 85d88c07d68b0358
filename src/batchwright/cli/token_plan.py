"""The part of ``batchwright plan`` that plans a Scion run for a budget of tokens."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from batchwright.cli.output import console, interval_text, number, print_json, progress_bar

WAY_OUT = "such as 10M, 1.3B, 500k or 250000"


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """What ``--tokens`` and the options beside it ask for.

    Attributes:
        tokens: Of the run.
        base_batch_size: Of settings tuned before; None for the task's.
        base_lr: Of settings tuned before; None for the task's.
        base_tokens: Of settings tuned before; None where they are to be found.
        restart_at: Totals of earlier stages.
    """

    tokens: int
    base_batch_size: int | None
    base_lr: float | None
    base_tokens: int | None
    restart_at: tuple[int, ...]

    @classmethod
    def parse(
        cls,
        tokens: str | None,
        base_batch_size: int | None,
        base_lr: float | None,
        base_tokens: str | None,
        restart_at: str | None,
    ) -> "TokenRequest | None":
        """The options as numbers; None without ``--tokens``.

        Raises:
            InputError: If one is no count, goes with ``--tokens`` alone, or lacks its fellows.
        """
        from batchwright.core.errors import InputError

        beside = {
            "--base-batch-size": base_batch_size,
            "--base-lr": base_lr,
            "--base-tokens": base_tokens,
            "--restart-at": restart_at,
        }
        given = [name for name, value in beside.items() if value is not None]
        if tokens is None:
            if given:
                raise InputError(
                    f"{given[0]} must go with --tokens, got it alone; give the budget of tokens, as --tokens 10M"
                )
            return None
        bases = [name for name in given if name != "--restart-at"]
        if bases and base_tokens is None:
            raise InputError(
                f"{bases[0]} must go with --base-tokens, got none; say for which budget it was tuned, or leave it out to have a "
                "base found"
            )
        return cls(
            tokens=_count("--tokens", tokens),
            base_batch_size=base_batch_size,
            base_lr=base_lr,
            base_tokens=None if base_tokens is None else _count("--base-tokens", base_tokens),
            restart_at=tuple(_count("--restart-at", word) for word in (restart_at or "").replace(",", " ").split()),
        )

    def base(self, task: Any) -> Any:
        """The settings tuned before, of which a task with Scion brings what is not given; None where they are to be found.

        Raises:
            InputError: If they are not whole.
        """
        from batchwright.core.errors import InputError
        from batchwright.planning.token_budget import TokenBudget

        if self.base_tokens is None:
            return None
        if task.optimizer.name != "scion" and (self.base_batch_size is None or self.base_lr is None):
            raise InputError(
                f"--base-tokens must go with --base-batch-size and --base-lr, got a part of them for {task.name}, whose optimizer is "
                f"{task.optimizer.name}; give all three, or none to have a base found"
            )
        return TokenBudget(
            batch_size=self.base_batch_size or task.batch_size,
            sequence_length=task.sequence_length or 1,
            lr=self.base_lr or task.optimizer.lr,
            tokens=float(self.base_tokens),
        )


def _count(name: str, text: str) -> int:
    from batchwright.adapt.amounts import parse_count
    from batchwright.core.errors import InputError

    try:
        found = parse_count(name, text)
    except InputError:
        found = 0
    if found < 1:
        raise InputError(f"{name} must be a whole number of tokens above 0, {WAY_OUT}, got {text!r}")
    return found


def plan_for_tokens(
    task: Any,
    request: TokenRequest,
    budget_steps: float | None,
    budget_seconds: float | None,
    *,
    seed: int,
    device: str,
    max_batch_size: int | None,
    memory_bytes: int | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure, decide, write and show."""
    from batchwright.planning.budget import Budget
    from batchwright.planning.planner import plan
    from batchwright.planning.token_planner import default_budget

    steps = default_budget(task, request.tokens).plain_steps if budget_steps is None else budget_steps
    with progress_bar() as bar:
        line = bar.add_task("measuring", total=None, note="")
        found = plan(
            task,
            tokens=request.tokens,
            budget=Budget(plain_steps=steps, seconds=budget_seconds),
            base=request.base(task),
            restart_at=request.restart_at,
            seed=seed,
            device=device,
            max_batch_size=max_batch_size,
            memory_bytes=memory_bytes,
            on_progress=lambda words: bar.update(line, note=words),
        )
    path = found.save(folder) if folder is not None else None
    if as_json:
        result: dict[str, Any] = {"plan": replace(found, environment={})}
        print_json("plan", result, found.cost, found.environment["device"])  # type: ignore[arg-type]
        return
    _print(found, path)


def _print(plan: Any, path: Path | None) -> None:
    screen = console()
    title = f"Plan for {plan.task}: Scion for {plan.tokens:,} tokens"
    table = Table(title=title, title_justify="left", expand=False)
    for heading in ("what", "value", "95 % interval", "why"):
        table.add_column(heading, overflow="fold")
    base = plan.base
    rows = [
        ("batch size", f"{plan.batch_size:,}", "batch_size"),
        ("step size (lr)", number(plan.lr), "lr"),
        ("momentum", number(plan.optimizer.momentum), "momentum"),
        ("steps", f"{plan.num_steps:,}", "num_steps"),
        ("micro-batch size", f"{plan.micro_batch_size:,}", "micro_batch_size"),
        ("base batch size", f"{base.batch_size:,}", "base_batch_size"),
        ("base step size", number(base.lr), "base_lr"),
        ("base tokens", f"{base.tokens:,.0f}", ""),
        ("optimizer", "scion", "optimizer"),
        ("tokens of an example", f"{plan.sequence_length:,}", "tokens"),
    ]
    for name, value, key in rows:
        interval = plan.intervals.get(key)
        known = interval is not None and interval.low < interval.high
        ends = f"{number(interval.low)} to {number(interval.high)}" if known else ""
        table.add_row(name, value, ends, plan.reasons.get(key, plan.base_source))
    screen.print(table)
    screen.print(f"Regime: {plan.reasons['regime']}.")
    names = {"smoothness": "L", "mu": "mu", "rho": "rho", "sigma": "sigma of a token"}
    told = "; ".join(f"{name} {interval_text(plan.intervals[key])}" for key, name in names.items())
    screen.print(
        f"Constants, along {plan.constants.num_steps} steps at batch size {plan.constants.batch_size}, in the norm whose unit ball is "
        f"that of the step: {told}."
    )
    if len(plan.stages) > 1:
        for stage in plan.stages:
            screen.print(
                f"To {stage.tokens:,} tokens: batch size {stage.batch_size:,}, lr {stage.lr:.3g}, {stage.num_steps:,} steps."
            )
    which = "batch size and steps" if plan.lr_source == "prior" else "batch size, step size and steps"
    prior = "; that of the step size is the span of tuned runs, no 95 %" if plan.lr_source == "prior" else ""
    screen.print(
        f"How sure: the intervals of {which} hold what the short runs do not tell apart and both rules of the "
        f"paper (2/3 and 1/2 in the exponent){prior}; those of the constants and of the regime the scatter along the pilot."
        if plan.tried
        else "How sure: the intervals of batch size, step size and steps hold both rules of the paper (2/3 and 1/2 in the "
        "exponent) and take the base as given; those of the constants and of the regime the scatter along the pilot."
    )
    cost = plan.cost
    parts = ", ".join(f"{name} {value:.0f}" for name, value in cost.parts.items())
    screen.print(
        f"Cost: {cost.plain_steps:.0f} plain steps of Scion ({parts}), {cost.num_examples:,} examples, {cost.seconds:.1f} s."
    )
    for warning in plan.warnings:
        screen.print(f"Note: {warning}")
    if path is not None:
        screen.print(f"Written: {path}")
