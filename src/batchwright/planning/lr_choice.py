"""The batch size whose learning rate training can follow: bounded by measured curvature, and tried where that does not settle it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from batchwright.core.statistics import Interval
from batchwright.measure.curvature.lr_bound import NUM_BATCHES, LrBound, lr_bound
from batchwright.measure.lr_trial import NUM_STEPS, LrTrial, lr_trial
from batchwright.measure.memory import Memory
from batchwright.measure.pilot import Pilot
from batchwright.measure.throughput import Throughput
from batchwright.planning.choose import Choice
from batchwright.tasks.task import Task

# Parts of the budget: one trial of the learning rate, and the curvature, of which each batch costs some plain steps.
TRIAL, BOUND, STEPS_A_BATCH = 0.15, 0.14, 6.0
# Runs were lost from 0.59 times the bound on, and none at half of it (docs/decisions/0006-lr-bound.md): what lies above is tried.
SURE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LrChoice:
    """A batch size with its learning rate, and what the learning rate was held against.

    Attributes:
        choice: The batch size.
        lr: Learning rate of the rule at it.
        bound: Measured curvature; None where the learning rate is not raised, and for optimizers whose edge is not known.
        max_lr: Largest learning rate that this curvature allows at the batch size; None without one.
        num_bounded: How often the batch was halved because its learning rate was surely above the bound.
        num_flown: How often it was halved because the loss flew away.
        trial: The few steps taken at the learning rate, in which it was not lost; None where none were needed.
        bound_s: Seconds of measuring curvature.
        trial_s: Seconds of trials.
        num_examples: Examples of both.
    """

    choice: Choice
    lr: float
    bound: LrBound | None
    max_lr: Interval | None
    num_bounded: int
    num_flown: int
    trial: LrTrial | None
    bound_s: float
    trial_s: float
    num_examples: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before training at the learning rate."""
        if self.trial is None or not self.trial.came_back:
            return ()
        return (
            f"at lr {self.lr:.3g} and batch size {self.choice.batch_size} the loss rose to {self.trial.rise:.1f} times its first "
            "value in the trial before it came back: such a start can cost more than the larger batch saves; compare with a run at "
            f"half of it (--lr {self.lr / 2:.2g})",
        )


def choose_lr(
    task: Task,
    *,
    choose: Callable[[int], Choice],
    rule: Callable[[int], float],
    limit: int,
    pilot: Pilot,
    times: Throughput,
    memory: Memory,
    budget_plain_steps: float,
    seed: int,
    device: torch.device,
    say: Callable[[str], None],
) -> LrChoice:
    """Choose the batch size, halved until its learning rate is neither surely above the bound nor flies away.

    At a learning rate that cannot follow, the number of steps stops falling and only their price rises; so the batch gives way.

    Args:
        task: The training job.
        choose: The choice with an upper bound on the batch size.
        rule: Learning rate at a batch size.
        limit: Largest batch size.
        pilot: From whose end curvature is measured.
        times: Step times, to know what a trial costs.
        memory: For the trial's micro-batches.
        budget_plain_steps: Of the whole plan.
        seed: Of measured batches and trials.
        device: Where to measure.
        say: Told what is done.
    """
    bound: LrBound | None = None
    measured, num_bounded, num_flown = False, 0, 0
    trial: LrTrial | None = None
    trial_s, num_examples = 0.0, 0
    while True:
        choice = choose(limit)
        lr, max_lr = rule(choice.batch_size), None
        # A learning rate that is not raised is the user's own, and the pilot has tried it.
        if lr <= task.optimizer.lr * (1 + 1e-9):
            break
        if not measured:
            say("curvature")
            num_batches = max(4, min(NUM_BATCHES, int(BOUND * budget_plain_steps / STEPS_A_BATCH)))
            bound, measured = lr_bound(task, pilot.snapshot, num_batches=num_batches, seed=seed, device=device), True
            num_examples += bound.num_examples if bound else 0
        max_lr = bound.max_lr(choice.batch_size) if bound else None
        if max_lr is not None and lr > max_lr.high:
            num_bounded += 1
            limit = max(1, choice.batch_size // 2)
            continue
        if max_lr is not None and lr <= SURE * max_lr.value:
            break
        say(f"trying lr {lr:.3g} at batch size {choice.batch_size}")
        start = time.perf_counter()
        # At least six steps, and no more of the budget than is left for it.
        step_time = times.step_time_s(float(choice.batch_size)).value
        steps = int(min(NUM_STEPS, max(6, TRIAL * budget_plain_steps * pilot.plain_step_s / step_time)))
        found = lr_trial(
            task,
            choice.batch_size,
            lr,
            micro_batch_size=memory.max_micro_batch_size,
            num_steps=steps,
            seed=seed,
            device=device,
        )
        trial_s += time.perf_counter() - start
        num_examples += found.num_examples
        if found.stable:
            trial = found
            break
        num_flown += 1
        limit = max(1, choice.batch_size // 2)
    return LrChoice(
        choice=choice,
        lr=lr,
        bound=bound,
        max_lr=max_lr,
        num_bounded=num_bounded,
        num_flown=num_flown,
        trial=trial,
        bound_s=bound.seconds if bound else 0.0,
        trial_s=trial_s,
        num_examples=num_examples,
    )
