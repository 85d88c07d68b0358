"""Measure and decide: the heart of the library."""

from collections.abc import Callable, Sequence
from typing import overload

from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.environment import resolve_device
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.planning.assemble import Options
from batchwright.planning.batch_rules import find_rule
from batchwright.planning.budget import Budget
from batchwright.planning.choose import OBJECTIVES
from batchwright.planning.measured_plan import Planner
from batchwright.planning.plan import Plan
from batchwright.planning.regime import REGIMES
from batchwright.planning.token_budget import TokenBudget
from batchwright.planning.token_plan import TokenPlan
from batchwright.planning.token_planner import plan_tokens
from batchwright.tasks.task import Task


@overload
def plan(
    task: Task,
    objective: str = "balanced",
    budget: Budget | None = None,
    *,
    tokens: None = None,
    calibrate: bool = False,
    seed: int = 0,
    device: str = "auto",
    max_batch_size: int | None = None,
    memory_bytes: int | None = None,
    kappa: Interval | None = None,
    regime: str = "keep-epochs",
    lr_rule: str | None = None,
    max_grad_norm: float | None = None,
    gradient_noise: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> Plan: ...


@overload
def plan(
    task: Task,
    *,
    budget: Budget | None = None,
    tokens: float,
    base: TokenBudget | None = None,
    restart_at: Sequence[float] = (),
    seed: int = 0,
    device: str = "auto",
    max_batch_size: int | None = None,
    memory_bytes: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> TokenPlan: ...


def plan(
    task: Task,
    objective: str = "balanced",
    budget: Budget | None = None,
    *,
    tokens: float | None = None,
    base: TokenBudget | None = None,
    restart_at: Sequence[float] = (),
    calibrate: bool = False,
    seed: int = 0,
    device: str = "auto",
    max_batch_size: int | None = None,
    memory_bytes: int | None = None,
    kappa: Interval | None = None,
    regime: str = "keep-epochs",
    lr_rule: str | None = None,
    max_grad_norm: float | None = None,
    gradient_noise: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> Plan | TokenPlan:
    """Measure a training job and decide its batch size, micro-batch size, learning rate and momentum.

    With ``tokens`` it is a run of Scion for that budget that is planned (`TokenPlan`), by `plan_tokens`: of the other
    arguments ``budget``,
    ``base``, ``restart_at``, ``seed``, ``device``, ``max_batch_size``, ``memory_bytes`` and ``on_progress`` go with it.

    Args:
        task: The training job; its default learning rate is taken as right for its default batch size.
        objective: ``time`` (shortest time to target), ``examples`` (fewest examples at no time), or ``balanced`` (the largest batch
            that spends at most 20 % more examples than the small-batch limit, but not past the fastest).
        budget: About what measuring may cost (`Budget`); 300 plain steps where left out.
        tokens: Budget of tokens of a Scion run; see `plan_tokens`, as for the next two.
        base: Settings tuned at a budget of tokens of their own; found by short runs where left out.
        restart_at: Totals of tokens at which the run would first have ended.
        calibrate: Measure the critical batch size directly by branches from the pilot's checkpoint. Costs more, stated in the plan.
        seed: Of the pilot.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        max_batch_size: Never more; the number of training examples where left out.
        memory_bytes: Memory that a step may take; a part of what is free where left out.
        kappa: Critical batch size over noise scale; the prior from the built-in tasks where left out.
        regime: How long to train when the batch is larger: ``keep-epochs``, as many examples as the task's limit, or
            ``keep-updates``, as many updates as the default batch size makes within it (regime adaptation, Hoffer et al. 2017).
        lr_rule: ``gain``, ``linear``, ``square-root`` or ``keep`` (`planning.RULES`); the optimizer's own where left out.
        max_grad_norm: Gradients are to be clipped to this norm.
        gradient_noise: Keep the learning rate, and give gradients the covariance of the default batch size by multiplicative noise
            instead; in place of an ``lr_rule``.
        on_progress: Called with a few words before each part.

    Returns:
        The plan, with intervals, reasons and cost.

    Raises:
        NotEnoughEvidenceError: If the gradient was not resolved from its noise within the budget.
        InputError: If an argument breaks a rule.
        NonFiniteLossError: If the task's defaults diverge.
    """
    check_choice("objective", objective, OBJECTIVES)
    if tokens is not None:
        others = {
            "objective": objective != "balanced",
            "calibrate": calibrate,
            "kappa": kappa is not None,
            "regime": regime != "keep-epochs",
            "lr_rule": lr_rule is not None,
            "max_grad_norm": max_grad_norm is not None,
            "gradient_noise": gradient_noise,
        }
        given = [name for name, is_given in others.items() if is_given]
        if given:
            raise InputError(
                f"{given[0]} must be left out with tokens, got both; batch size and step size of Scion follow from the budget "
                "of tokens "
                "alone"
            )
        return plan_tokens(
            task,
            _whole("tokens", tokens),
            budget,
            base=base,
            restart_at=[_whole("restart_at", each) for each in restart_at],
            seed=seed,
            device=device,
            max_batch_size=max_batch_size,
            memory_bytes=memory_bytes,
            on_progress=on_progress,
        )
    if base is not None or restart_at:
        raise InputError(
            f"{'base' if base is not None else 'restart_at'} must go with tokens, got it alone; give the budget of tokens of the run"
        )
    if task.optimizer.name == "scion":
        raise InputError(
            f"a plan without a budget of tokens must be for sgd, adam, adamw or muon, got task {task.name!r} with scion, whose batch "
            "size and learning rate follow it: give tokens (--tokens)"
        )
    check_choice("regime", regime, REGIMES)
    if max_grad_norm is not None:
        check_number("max_grad_norm", max_grad_norm, above=0.0)
    if lr_rule is not None:
        find_rule("lr", task.optimizer.name, lr_rule)
    if gradient_noise and lr_rule not in (None, "keep"):
        raise InputError(
            f"gradient_noise must go with the learning rate kept, got lr_rule={lr_rule!r}: noise for the small batch's learning rate "
            "is too much for a larger one; leave lr_rule out"
        )
    limit = task.num_train
    if max_batch_size is not None:
        limit = min(check_int("max_batch_size", max_batch_size, at_least=1), limit)
    return Planner(
        task,
        objective,
        budget or Budget(),
        seed,
        resolve_device(device),
        limit,
        memory_bytes,
        on_progress or (lambda _: None),
        Options(
            regime=regime,
            lr_rule="keep" if gradient_noise else lr_rule,
            max_grad_norm=max_grad_norm,
            gradient_noise=gradient_noise,
        ),
    ).run(calibrate, kappa)


def _whole(name: str, value: float) -> int:
    """A count that may be written as a float, such as 1.3e9."""
    number = check_number(name, value, at_least=1.0)
    if number != round(number):
        raise InputError(f"{name} must be a whole number, got {value!r}; round it")
    return round(number)
