"""Plan a run of Scion for a budget of tokens: find or take settings for a small budget, measure the constants, apply the BST rule.

Source: Islamov et al. (2026), arXiv:2603.21191 (papers-2026, paper 3, sections 3.4 to 3.6).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from batchwright.core.batches import to_device
from batchwright.core.checks import check_int, check_number
from batchwright.core.environment import resolve_device
from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.conditional_gradient import ConditionalGradientConstants, conditional_gradient_constants
from batchwright.measure.memory import Memory, memory
from batchwright.measure.short_run import short_run
from batchwright.optim.ball import ball_norms
from batchwright.optim.build import RADII, build_optimizer
from batchwright.optim.scion import Scion
from batchwright.planning.budget import Budget
from batchwright.planning.plan import Cost
from batchwright.planning.token_base import USUAL_RUNS, FoundBase, find_base
from batchwright.planning.token_budget import TokenBudget
from batchwright.planning.token_decision import TokenEvidence, TokenLimits, decide
from batchwright.planning.token_plan import TokenPlan
from batchwright.tasks.task import OptimizerSpec, Task

# Parts of the budget: the short runs of the search, and the gradients behind the constants.
SEARCH, CONSTANTS = 0.6, 0.35
# The first step size tried for a task whose optimizer is another: with the published radii a step moves a matrix by 0.025 of its norm.
FIRST_LR = 5e-4
MOMENTUM = 0.9  # the paper's alpha of 0.1
# Measuring may cost this part of the run's tokens, within two bounds in plain steps.
SHARE, LEAST, MOST = 0.1, 300.0, 1000.0


def plan_tokens(
    task: Task,
    tokens: int,
    budget: Budget | None = None,
    *,
    base: TokenBudget | None = None,
    restart_at: Sequence[int] = (),
    seed: int = 0,
    device: str = "auto",
    max_batch_size: int | None = None,
    memory_bytes: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> TokenPlan:
    """Plan a run of Scion for a budget of tokens, and say in which of the three regimes it is.

    The batch size and step size come from settings tuned at a smaller budget by `token_budget`; the constants of the bound, measured
    along a pilot at those settings, only say in which regime the run is.

    Args:
        task: The training job. Its Scion is taken; where its optimizer is another, Scion with the radii of `optim.build.RADII` by
            the groups of `param_groups` and a momentum of 0.9.
        tokens: Of the whole run. An example has the task's ``sequence_length``, one without it counts one.
        budget: What measuring may cost; where left out a tenth of the run at the default batch size, within 300 and 1000 plain steps.
            A plain step here is one of Scion at the default batch size.
        base: Settings tuned at a budget of their own; found by short runs where left out.
        restart_at: Totals of tokens, rising and below ``tokens``, at which the run would first have ended: it begins with the settings
            for the first and takes those of the next total at each (the restarted schedule).
        seed: Of the measurements.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        max_batch_size: Never more; the number of training examples where left out.
        memory_bytes: Memory that a step may take; a part of what is free where left out.
        on_progress: Called with a few words before each part.

    Raises:
        NotEnoughEvidenceError: If the short runs do not tell the step sizes apart.
        InputError: If an argument breaks a rule.
    """
    length = task.sequence_length or 1
    way_out = f"an example of {task.name} has {length} of them"
    check_int("tokens", tokens, at_least=20 * length, way_out=way_out)
    totals = [*restart_at, tokens]
    for earlier, later in pairwise(totals):
        check_int("restart_at", earlier, at_least=20 * length, way_out=way_out)
        if earlier >= later:
            raise InputError(f"restart_at must rise and stay below tokens, got {earlier} before {later}; leave it out")
    if restart_at and task.sequence_length is None:
        raise InputError(
            f"restart_at must have a task that says how many tokens an example has, got {task.name!r} without sequence_length: the "
            "schedule counts tokens; give Task(sequence_length=...)"
        )
    limit = task.num_train
    if max_batch_size is not None:
        limit = min(check_int("max_batch_size", max_batch_size, at_least=1), limit)
    if base is not None:
        if base.sequence_length != length:
            raise InputError(
                f"base must have the sequence length of the task, got {base.sequence_length} for {length}; what was tuned at another "
                "length does not carry over by this rule alone"
            )
        check_number("base lr", base.lr, above=0.0, at_most=1.0)
    planner = _TokenPlanner(
        task=task,
        spec=scion_of(task),
        limits=TokenLimits(
            totals=tuple(totals), length=length, max_batch_size=limit, seed=seed, device=resolve_device(device)
        ),
        memory_bytes=memory_bytes,
        say=on_progress or (lambda _: None),
    )
    return planner.go(budget or default_budget(task, tokens), base)


def default_budget(task: Task, tokens: int) -> Budget:
    """A tenth of the run's steps at the task's default batch size, within 300 and 1000: a longer run deserves a nearer base."""
    steps = tokens / (task.batch_size * (task.sequence_length or 1))
    return Budget(plain_steps=min(max(SHARE * steps, LEAST), MOST))


def scion_of(task: Task) -> OptimizerSpec:
    """The task's Scion, or the one that stands for another optimizer.

    Raises:
        InputError: If the task's Scion is not the constrained one, which is what the rule holds for.
    """
    spec = task.optimizer
    if spec.name != "scion":
        return OptimizerSpec(name="scion", lr=FIRST_LR, momentum=MOMENTUM, options={"radii": dict(RADII)})
    if not spec.options.get("constrained", True):
        raise InputError(
            f"the token-budget rule must have the constrained Scion, got task {task.name!r} with constrained=False; its bound does not "
            "cover that form"
        )
    return spec


@dataclass
class _TokenPlanner:
    task: Task
    spec: OptimizerSpec
    limits: TokenLimits
    memory_bytes: int | None
    say: Callable[[str], None]

    def go(self, budget: Budget, base: TokenBudget | None) -> TokenPlan:
        task, length = self.task, self.limits.length
        # The first steps of a process import and allocate: no cost of measuring. The rest of them give the unit of cost.
        trial = short_run(
            task,
            replace(self.spec, lr=base.lr) if base else self.spec,
            batch_size=task.batch_size,
            num_examples=10 * task.batch_size,
            seed=self.limits.seed,
            device=self.limits.device,
        )
        unit = float(np.median(trial.step_times[min(3, len(trial.step_times) - 1) :]))
        steps = budget.plain_steps
        if budget.seconds is not None:
            steps = max(40.0, min(steps, budget.seconds / unit))
        parts: dict[str, float] = {}
        examples, seconds = 0, 0.0
        found: FoundBase | None = None
        if base is None:
            found = find_base(
                task,
                self.spec,
                num_examples=max(12, int(SEARCH * steps / USUAL_RUNS)) * task.batch_size,
                max_batch_size=self.limits.max_batch_size,
                seed=self.limits.seed,
                device=self.limits.device,
                say=self.say,
            )
            base = TokenBudget(
                batch_size=found.batch_size,
                sequence_length=length,
                lr=found.lr,
                tokens=float(found.num_examples * length),
            )
            parts["short runs"] = found.seconds / unit
            examples, seconds = examples + found.total_examples, seconds + found.seconds
        spec = replace(self.spec, lr=base.lr)
        self.say("constants")
        start = time.perf_counter()
        pilot_spec, pilot_size = spec, base.batch_size
        if found is not None:
            pilot_spec, pilot_size = replace(spec, lr=found.pilot_lr), found.pilot_batch_size
        constants, start_norm = self.constants(pilot_spec, pilot_size, int(CONSTANTS * steps))
        spent = time.perf_counter() - start
        parts["constants"] = spent / unit
        examples, seconds = examples + constants.num_gradients * pilot_size, seconds + spent
        self.say("memory")
        start = time.perf_counter()
        ceiling = self.memory(spec)
        spent = time.perf_counter() - start
        parts["memory"] = spent / unit
        examples, seconds = examples + ceiling.num_examples, seconds + spent
        cost = Cost(plain_steps=sum(parts.values()), num_examples=examples, seconds=seconds, parts=parts)
        evidence = TokenEvidence(
            base=base, found=found, constants=constants, start_norm=start_norm, ceiling=ceiling, cost=cost
        )
        return decide(task, spec, evidence, self.limits)

    def constants(
        self, spec: OptimizerSpec, batch_size: int, num_gradients: int
    ) -> tuple[ConditionalGradientConstants, float]:
        """The constants along a pilot, and the largest norm at its start as a part of the ball."""
        # Two thirds of the steps are looked at, with two gradients more each. A batch smaller than the default is not so much cheaper.
        affordable = num_gradients / (0.5 + 0.5 * batch_size / self.task.batch_size)
        num_steps = max(60, int(affordable * 3 / 7))
        random_state = RandomState.capture()
        try:
            torch.manual_seed(self.limits.seed)
            model = self.task.make_model(self.limits.seed, self.limits.device)
            optimizer = build_optimizer(spec, model)
            assert isinstance(optimizer, Scion)
            sampler = EpochSampler(self.task.num_train, self.limits.seed + 1)
            batches = [
                to_device(fetch(self.task.train, sampler.take(batch_size)), self.limits.device)
                for _ in range(num_steps + 1)
            ]
            start_norm = max(optimizer.norms())
            found = conditional_gradient_constants(
                model,
                self.task.loss,
                optimizer,
                batches,
                last=num_steps * 2 // 3,
                norms=ball_norms(model, optimizer),
            )
        finally:
            random_state.restore()
        return found, start_norm

    def memory(self, spec: OptimizerSpec) -> Memory:
        task = replace(self.task, optimizer=spec)
        return memory(
            task, budget_bytes=self.memory_bytes, device=self.limits.device, confirm=self.limits.device.type == "cuda"
        )
