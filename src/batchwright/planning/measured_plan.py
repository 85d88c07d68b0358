"""The measurements behind a plan in their order, each within its part of the budget, and the decision they lead to."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from batchwright.core.errors import NotEnoughEvidenceError
from batchwright.core.statistics import Interval, normal_quantile
from batchwright.measure.branch import Branch, branch
from batchwright.measure.memory import Memory, memory
from batchwright.measure.pilot import Pilot, pilot
from batchwright.measure.throughput import Throughput, throughput
from batchwright.planning.assemble import Options, assemble
from batchwright.planning.batch_change import batch_change
from batchwright.planning.budget import Budget
from batchwright.planning.choose import Choice, choose
from batchwright.planning.kappa import combine, kappa_prior, sweep_kappa
from batchwright.planning.laws import keep_half_life, lr_turning_point, power_of_two, scale_lr
from batchwright.planning.log_normal import inverse, product
from batchwright.planning.lr_choice import choose_lr
from batchwright.planning.normalization import advise_normalization
from batchwright.planning.optimizer_settings import OptimizerSettings
from batchwright.planning.pilot_window import pilot_steps
from batchwright.planning.plan import Cost, Plan
from batchwright.tasks.task import Task

# Parts of the budget: training the pilot, noise at its points, more noise where it is not resolved, step times. What is left is for
# the memory, the curvature and the trial of the learning rate.
PILOT, NOISE, EXTRA_NOISE, THROUGHPUT = 0.34, 0.16, 0.1, 0.18
# A measured batch may cost this much more than one of the default size.
AFFORDABLE = 1.3


@dataclass
class Planner:
    """The measurements of `plan` in their order, and the decision."""

    task: Task
    objective: str
    budget: Budget
    seed: int
    device: torch.device
    limit: int
    memory_bytes: int | None
    say: Callable[[str], None]
    options: Options

    def run(self, calibrate: bool, kappa: Interval | None) -> Plan:
        """All of it."""
        # The first step of a process imports and allocates for seconds, whoever takes it: that is no cost of measuring.
        pilot(self.task, num_steps=3, batches_a_point=3, max_extra_batches=0, seed=self.seed, device=self.device)
        start = time.perf_counter()
        found_memory = self.measure_memory()
        memory_s = time.perf_counter() - start
        plain_steps = self.plain_steps()
        found_times = self.measure_step_times(found_memory)
        found_pilot = self.run_pilot(plain_steps, self.measured_batch_size(found_times, found_memory))
        seconds = time.perf_counter() - start

        noise = found_pilot.noise_scale
        prior = kappa or kappa_prior(optimizer=self.task.optimizer.name)
        source = "given" if kappa else "prior from the built-in tasks"
        critical = product(noise, prior)
        branches = None
        if calibrate:
            try:
                branches = self.calibrate(found_pilot, critical, lr_turning_point(critical, noise))
            except NotEnoughEvidenceError as error:
                source = f"{source}; calibration gave {error}"
            else:
                local = product(branches.critical_batch_size, inverse(noise))
                updated = combine(prior, sweep_kappa(local, exclude=self.task.name))
                word = "updated" if updated != prior else "not contradicted"
                source, prior = f"{source}, {word} by branches from the pilot's checkpoint", updated
                critical = product(noise, prior)
        unit = found_pilot.plain_step_s
        turn = lr_turning_point(critical, noise)
        chosen = choose_lr(
            self.task,
            choose=lambda limit: self.choose(critical, found_times, limit),
            rule=lambda size: self.scaled_lr(size, turn.value),
            limit=self.limit,
            pilot=found_pilot,
            times=found_times,
            memory=found_memory,
            budget_plain_steps=self.budget.plain_steps,
            seed=self.seed,
            device=self.device,
            say=self.say,
        )
        advice = advise_normalization(
            self.task,
            found_pilot.snapshot,
            first_loss=float(np.mean(found_pilot.losses[:3])),
            micro_batch_size=min(chosen.choice.batch_size, found_memory.max_micro_batch_size),
            max_micro_batch_size=found_memory.max_micro_batch_size,
            seed=self.seed,
            device=self.device,
        )
        parts = {
            "memory": memory_s / unit,
            "pilot": found_pilot.train_s / unit,
            "noise": found_pilot.measure_s / unit,
            "throughput": found_times.seconds / unit,
            "stability": chosen.bound_s / unit,
            "lr trial": chosen.trial_s / unit,
        }
        if branches is not None:
            parts["calibration"] = branches.seconds / unit
        if advice is not None:
            parts["normalization"] = advice.seconds / unit
        cost = Cost(
            plain_steps=sum(parts.values()),
            num_examples=found_memory.num_examples
            + found_pilot.num_examples
            + found_times.num_examples
            + chosen.num_examples
            + (branches.total_examples if branches else 0)
            + (advice.num_examples if advice else 0),
            seconds=seconds
            + chosen.bound_s
            + chosen.trial_s
            + (branches.seconds if branches else 0.0)
            + (advice.seconds if advice else 0.0),
            parts=parts,
        )
        size = chosen.choice.batch_size
        lrs = sorted(self.scaled_lr(size, value) for value in (turn.low, turn.value, turn.high))
        return assemble(
            self.task,
            chosen,
            objective=self.objective,
            seed=self.seed,
            lr=Interval(value=chosen.lr, low=min(lrs[0], chosen.lr), high=max(lrs[-1], chosen.lr)),
            turn=turn,
            critical=critical,
            kappa=prior,
            kappa_source=source,
            pilot=found_pilot,
            times=found_times,
            memory=found_memory,
            branches=branches,
            advice=advice,
            cost=cost,
            device=self.device,
            options=self.options,
        )

    def plain_steps(self) -> float:
        """The budget in plain steps; a bound in seconds is turned into steps by a few of them."""
        if self.budget.seconds is None:
            return self.budget.plain_steps
        trial = pilot(
            self.task, num_steps=6, batches_a_point=3, max_extra_batches=0, seed=self.seed, device=self.device
        )
        return max(40.0, min(self.budget.plain_steps, self.budget.seconds / trial.plain_step_s))

    def measure_memory(self) -> Memory:
        """The memory ceiling."""
        self.say("memory")
        return memory(self.task, budget_bytes=self.memory_bytes, device=self.device, confirm=self.device.type == "cuda")

    def measured_batch_size(self, found: Throughput, found_memory: Memory) -> int:
        """Largest power of two times the default size that costs little more: where a step is mostly overhead, examples are free."""
        size, base = self.task.batch_size, found.step_time_s(float(self.task.batch_size)).value
        highest = min(
            found_memory.max_micro_batch_size, self.task.num_train, max(point.batch_size for point in found.points)
        )
        while 2 * size <= highest and found.step_time_s(float(2 * size)).value <= AFFORDABLE * base:
            size *= 2
        return size

    def run_pilot(self, plain_steps: float, measured_batch_size: int) -> Pilot:
        """The pilot with its noise scale.

        Raises:
            NotEnoughEvidenceError: If the gradient is not resolved from its noise.
        """
        self.say("pilot and noise scale")
        found = pilot(
            self.task,
            num_steps=pilot_steps(self.task, PILOT * plain_steps),
            batches_a_point=max(4, int(NOISE * plain_steps / 3)),
            max_extra_batches=int(EXTRA_NOISE * plain_steps),
            measured_batch_size=measured_batch_size,
            seed=self.seed,
            device=self.device,
        )
        if found.more_batches:
            raise NotEnoughEvidenceError(
                f"not enough evidence: after {len(found.losses)} pilot steps the gradient of {self.task.name} is not resolved "
                f"from its noise (noise scale at least {found.noise_scale.low:.0f}); measure about {found.more_batches} more "
                f"batches of {measured_batch_size}: raise --budget-steps to "
                f"{math.ceil((plain_steps + found.more_batches) / 50) * 50}"
            )
        return found

    def measure_step_times(self, found: Memory) -> Throughput:
        """Step time against batch size."""
        self.say("step times")
        return throughput(
            self.task,
            max_batch_size=self.limit,
            micro_batch_size=min(found.max_micro_batch_size, self.limit),
            budget_plain_steps=THROUGHPUT * self.budget.plain_steps,
            device=self.device,
            seed=self.seed,
        )

    def calibrate(self, found: Pilot, critical: Interval, turn: Interval) -> Branch:
        """Branches at the default size and at sizes around the expected critical one, where the loss tells them apart."""
        self.say("calibration by branches")
        base = self.task.batch_size
        top = min(power_of_two(critical.value), self.task.num_train // 2)
        sizes = {max(1, min(base, top // 4)), max(2, top // 4), max(4, top)}
        return branch(
            self.task,
            found.snapshot,
            sorted(sizes),
            lr_rule=lambda size: self.scaled_lr(size, turn.value),
            beta2_rule=lambda size: keep_half_life(self.task.optimizer.beta2, base_batch_size=base, batch_size=size),
            num_examples=12 * max(sizes),
            seed=self.seed,
            device=self.device,
        )

    def choose(self, critical: Interval, found: Throughput, limit: int) -> Choice:
        """The batch size of the objective."""
        slope = found.per_example_s
        error = 0.0
        if slope.low > 0 and math.isfinite(slope.high):
            error = math.log(slope.high / slope.low) / (2 * normal_quantile(slope.level))
        return choose(
            self.objective,
            critical_batch_size=critical,
            step_time_s=lambda sizes: np.array([found.step_time_s(float(size)).value for size in sizes]),
            step_time_error=min(error, 1.0),
            flat_until=found.flat_until,
            max_batch_size=limit,
            rng=np.random.default_rng(self.seed),
        )

    def scaled_lr(self, batch_size: int, critical: float) -> float:
        """The rule's learning rate for a critical size, which is not taken below the default batch size.

        Below that the rule would keep the learning rate at smaller batches too, which only says that the gradient is not noisy there.
        """
        spec = self.task.optimizer
        critical = max(critical, float(self.task.batch_size))
        if self.options.lr_rule is not None:
            return batch_change(
                spec.name,
                OptimizerSettings(lr=spec.lr),
                base_batch_size=self.task.batch_size,
                batch_size=batch_size,
                rule=self.options.lr_rule,
                noise_scale=critical,
            ).lr
        return scale_lr(
            spec.name,
            spec.lr,
            base_batch_size=self.task.batch_size,
            batch_size=batch_size,
            critical_batch_size=critical,
        )
