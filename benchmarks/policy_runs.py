"""One training run of `benchmarks.policies`: a controller in charge of the batch size, under one schedule of the learning rate.

The loop is that of `batchwright.training.loop` (same sampler, accumulation, measurements and rules of the optimizer) with two things
more: the learning rate is warmed up and decays by examples, and the held-out loss is taken at given shares of the budget.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Subset

from batchwright.adapt import Controller, Measured, check_optimizer
from batchwright.core.objectives import accumulate_gradient
from batchwright.core.preserve import RandomState
from batchwright.core.vectors import trainable
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.measure.running_noise import RunningNoiseScale
from batchwright.planning.example_clock import ExampleClock
from batchwright.tasks.evaluation import evaluate
from batchwright.tasks.task import Task
from batchwright.training.follow import Follower
from batchwright.training.ranks import Ranks
from batchwright.training.split import micro_batch_sizes
from batchwright.training.step_examples import OF_EXAMPLES, EpochDiversity, ExampleStatistics, example_statistics
from batchwright.training.step_noise import Gatherer, StepStatistics

WARM_UP = 0.05  # of the example budget, for every run
# Where the held-out loss is taken, in shares of the example budget: close together at the end, where a decaying run gets there.
LOOKS = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95)
NOISE_EVERY = 4  # as `train` and `BatchEngine` have it
# DiveBatch decides when an epoch ends. These runs are one or two epochs long, so its epochs are sixths of the budget.
WINDOWS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is trained, and for how long.

    Attributes:
        task: With all its evaluation set, for the final loss.
        max_examples: The example budget of every run, unless it says otherwise.
        thinning: Every how many-th evaluation example is used for the looks on the way.
    """

    task: Task
    max_examples: int
    thinning: int

    def looks(self) -> Task:
        """The task with the thinned evaluation set."""
        return replace(
            self.task,
            metrics={},
            evaluation=Subset(self.task.evaluation, range(0, len(self.task.evaluation), self.thinning)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Everything that decides a run.

    Attributes:
        policy: Controller in charge.
        batch_size: Of the first step; where no policy changes it, of all.
        lr: At ``base_batch_size``.
        seed: Of model and data order.
        max_examples: Budget of the run, and of its schedule.
        decays: Whether the learning rate decays along a cosine to zero after warm-up; for policies in place of a decay it is constant.
        looks: Whether the loss on the way is taken.
    """

    policy: Controller
    batch_size: int
    lr: float
    seed: int
    max_examples: int
    decays: bool = True
    looks: bool = True


def train_run(case: Case, setting: Setting) -> dict[str, Any]:
    """Train, and return what a table needs in plain values; ``loss`` is None where training diverged."""
    task, start = case.task, time.process_time()
    torch.manual_seed(setting.seed)
    model = task.make_model(setting.seed)
    spec = replace(task.optimizer, lr=setting.lr)
    check_optimizer(setting.policy, spec.name, momentum=spec.momentum)
    optimizer = spec.build(trainable(model))
    budget, unit = setting.max_examples, min(8, setting.batch_size)

    def schedule(number: int) -> float:
        part = number * unit / budget
        if part < WARM_UP:
            return (number + 1) * unit / (WARM_UP * budget + unit)
        return 0.5 * (1 + math.cos(math.pi * min((part - WARM_UP) / (1 - WARM_UP), 1.0))) if setting.decays else 1.0

    clock = ExampleClock(LambdaLR(optimizer, schedule), examples_per_step=unit)
    follower = Follower(optimizer, base_batch_size=setting.batch_size, clock=clock, name=spec.name)
    sampler = EpochSampler(task.num_train, setting.seed)
    window = math.ceil(budget / WINDOWS)
    needs = setting.policy.needs
    gatherer = Gatherer(Ranks(model), needs)
    epoch = EpochDiversity(window) if "diversity" in needs else None
    noise, state = RunningNoiseScale(), setting.policy.init(batch_size=setting.batch_size)
    step = examples = 0
    batch_size, loss_value = setting.batch_size, math.nan
    changes, curve, looks = [(0, batch_size)], [], case.looks()
    pending = [share * budget for share in LOOKS] if setting.looks else []

    def decide(parts: StepStatistics, single: ExampleStatistics | None, diversity: float | None) -> int:
        nonlocal noise, state
        if parts.noise is not None:
            noise = noise.update(parts.noise)
        interval = noise.interval()
        known = interval is not None
        measured = Measured(
            step=step,
            num_examples=examples,
            batch_size=batch_size,
            epoch=examples // window,
            num_train=window,
            lr=float(optimizer.param_groups[0]["lr"]),
            loss=loss_value if step else None,
            noise_scale=interval,
            trace=single.trace if single else noise.trace if known else None,
            grad_sq_norm=single.grad_sq_norm if single else noise.grad_sq_norm if known else None,
            inner_product_variance=single.inner_product_variance if single else None,
            cosine=parts.cosine,
            diversity=diversity,
        )
        state, decision = setting.policy.update(state, measured)
        wanted = min(decision.batch_size, task.num_train)
        if decision.lr_factor is not None:
            follower.set_lr_factor(decision.lr_factor)
        elif wanted != batch_size:
            scale = interval.value if interval is not None and interval.value > 0 else math.inf
            follower.change_batch_size(wanted, noise_scale=scale)
        return wanted

    batch_size = decide(StepStatistics(), None, None)
    diverged = False
    while examples < budget and not diverged:
        size = min(batch_size, budget - examples)
        batch = fetch(task.train, sampler.take(size))
        sizes, before = None, RandomState.capture() if needs & OF_EXAMPLES else None
        if (gatherer.active or epoch is not None) and (step + 1) % NOISE_EVERY == 0:
            sizes = micro_batch_sizes(
                size, largest_share=size, micro_batch_size=size, min_parts=gatherer.min_parts, even=gatherer.even
            )
        if sizes is not None:
            gatherer.begin(len(sizes))
        optimizer.zero_grad(set_to_none=True)
        after = gatherer.after_micro_batch if sizes is not None else None
        loss_value = float(accumulate_gradient(model, task.loss, batch, sizes=sizes, after_micro_batch=after))
        parts, single, diversity = StepStatistics(), None, None
        if sizes is not None:
            parts = gatherer.end(local_weight=size, total_weight=float(size), num_examples=size, scale=1.0)
            if before is not None and "inner_product_variance" in needs:
                single = example_statistics(model, task.loss, batch, sizes, before)
            if before is not None and epoch is not None:
                epoch.add(model, task.loss, batch, sizes, before)
        optimizer.step()
        if epoch is not None and (examples + size) // window > examples // window:
            diversity = epoch.close()
        step, examples = step + 1, examples + size
        clock.advance(size)
        diverged = not math.isfinite(loss_value)
        if not diverged:
            wanted = decide(parts, single, diversity)
            if wanted != batch_size:
                changes.append((examples, wanted))
                batch_size = wanted
        while pending and examples >= pending[0]:
            pending.pop(0)
            curve.append((step, examples, evaluate(looks, model).values["loss"]))
    found = None if diverged else evaluate(task, model)
    if setting.looks and found is not None:
        curve.append((step, examples, evaluate(looks, model).values["loss"]))
    return {
        "loss": None if found is None or not math.isfinite(found.values["loss"]) else found.values["loss"],
        "accuracy": None if found is None else found.values["accuracy"],
        "updates": step,
        "examples": examples,
        "changes": changes,
        "curve": curve,
        "cpu_s": time.process_time() - start,
    }
