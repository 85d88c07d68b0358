"""Settings of Scion that are right for a small budget, found by short runs: what the token-budget rule starts from.

Source: papers-2026, 3.5, step (1): tune batch size and step size at a small budget. How it is searched is ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from batchwright.core.errors import NotEnoughEvidenceError
from batchwright.core.statistics import Interval
from batchwright.measure.short_run import ShortRun, excess_loss, short_run
from batchwright.tasks.task import OptimizerSpec, Task

# A batch counts as no worse while its loss is at most this part of what the best short run gained above that one's. The rule starts
# from the upper edge of the flat part.
TOLERANCE = 0.02
# Step sizes are tried a factor of 2 apart, batch sizes a factor of 4.
LR_STEP, BATCH_STEP = 2.0, 4
# At most so many step sizes at one batch size.
MAX_LADDER = 7
# What the search costs as a rule, in runs at the default batch size: ten runs, of which the small batches are mostly overhead.
USUAL_RUNS = 14
# The best step size is looked up at this part of each run too.
EARLY = 4
# The rule's exponent is -1; halved, for the factors of 2 between the step sizes.
FALLING = -0.5
# No batch is tried below this part of the default.
SMALLEST = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedSetting:
    """One short run of the search.

    Attributes:
        batch_size: Examples in a step.
        lr: Step size.
        end_loss: Mean training loss of the last third of its examples; ``inf`` for one that blew up.
        excess: By how much it ended above the setting that was taken, over the same examples.
    """

    batch_size: int
    lr: float
    end_loss: float
    excess: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundBase:
    """What the search found.

    Attributes:
        batch_size: Largest one tried whose loss is no worse.
        lr: Best step size tried there.
        batch_sizes: Its interval: the sizes tried that are not surely worse than the tolerance, and the way to the next ones.
        lrs: The same for the step size.
        num_examples: Of each run.
        lr_exponent: ``a`` of the best step size at ``batch_size``, which goes as ``examples^a`` from a quarter of each run to its end;
            the rule has -1. The step sizes are a factor of 2 apart, so it is good to about a half.
        pilot_batch_size: The default batch size, at which the constants are measured: at a small base most of a gradient is noise.
        pilot_lr: The best step size tried there.
        tried: All runs.
        seconds: Of all runs.
        total_examples: Of all runs.
    """

    batch_size: int
    lr: float
    batch_sizes: Interval
    lrs: Interval
    num_examples: int
    lr_exponent: float
    pilot_batch_size: int
    pilot_lr: float
    tried: tuple[TriedSetting, ...]
    seconds: float
    total_examples: int

    @property
    def follows_rule(self) -> bool:
        """Whether the best step size fell along the runs, as the rule has it; early in training it does not yet."""
        return self.lr_exponent <= FALLING


def find_base(
    task: Task,
    spec: OptimizerSpec,
    *,
    num_examples: int,
    max_batch_size: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> FoundBase:
    """Search the step size and the batch size that leave the lowest loss after ``num_examples``, by runs over the same examples.

    First the step size at the task's default batch size, by factors of 2 until both neighbours of the best are worse; then smaller
    batches, by factors of 4, and the step size there once more, until one on either side is surely worse; then the largest batch
    that is no worse. All with one seed: the intervals hold the scatter of examples, not that over seeds.

    Raises:
        NotEnoughEvidenceError: If the runs are too short to tell the step sizes apart, or the best is at the end of what was tried.
    """
    return _Search(task, spec, num_examples, max_batch_size, seed, torch.device(device), say).go()


@dataclass
class _Search:
    task: Task
    spec: OptimizerSpec
    num_examples: int
    max_batch_size: int
    seed: int
    device: torch.device
    say: Callable[[str], None]
    runs: dict[tuple[int, float], ShortRun] = field(default_factory=dict)

    def go(self) -> FoundBase:
        # Twelve steps at least, or a run says nothing about the way down.
        largest = min(self.max_batch_size, max(1, self.num_examples // 12))
        size = default = min(self.task.batch_size, largest)
        lr = default_lr = self.climb(size, self.spec.lr, surely=False)
        while size // BATCH_STEP >= max(1, default // SMALLEST):
            if self.run(size // BATCH_STEP, lr).end_loss >= self.run(size, lr).end_loss:
                break
            size //= BATCH_STEP
            lr = self.climb(size, lr, surely=False)
        lr = self.climb(size, lr, surely=True)
        best = self.run(size, lr)
        allowed = self.allowed(best)
        while size * BATCH_STEP <= largest and excess_loss(self.run(size * BATCH_STEP, lr), best).value <= allowed:
            size *= BATCH_STEP
        chosen = self.run(size, lr)
        if size != best.batch_size:
            lr = self.climb(size, lr, surely=True)
            chosen = self.run(size, lr)
        return FoundBase(
            batch_size=size,
            lr=lr,
            batch_sizes=self.sizes_kept(size, min(best, chosen, key=lambda run: run.end_loss), allowed),
            lrs=self.lrs_kept(size, lr),
            num_examples=self.num_examples,
            lr_exponent=self.lr_exponent(size, lr),
            pilot_batch_size=default,
            pilot_lr=default_lr,
            tried=tuple(
                TriedSetting(
                    batch_size=run.batch_size, lr=run.lr, end_loss=run.end_loss, excess=excess_loss(run, chosen)
                )
                for _, run in sorted(self.runs.items())
            ),
            seconds=sum(run.seconds for run in self.runs.values()),
            total_examples=sum(run.num_examples for run in self.runs.values()),
        )

    def run(self, batch_size: int, lr: float) -> ShortRun:
        """A short run, made once."""
        key = (batch_size, lr)
        if key not in self.runs:
            self.say(f"short run {len(self.runs) + 1}: batch {batch_size}, lr {lr:.2g}")
            self.runs[key] = short_run(
                self.task,
                replace(self.spec, lr=lr),
                batch_size=batch_size,
                num_examples=self.num_examples,
                seed=self.seed,
                device=self.device,
            )
        return self.runs[key]

    def climb(self, batch_size: int, lr: float, *, surely: bool) -> float:
        """The best step size of a ladder that goes on until its ends are worse than the best, or ``surely`` so.

        Raises:
            NotEnoughEvidenceError: If the ladder grows too long.
        """
        ladder = [lr]
        while True:
            runs = {each: self.run(batch_size, each) for each in ladder}
            best = min(runs.values(), key=lambda run: run.end_loss)
            low, high = min(ladder), max(ladder)
            open_low = low == best.lr or (surely and not self.worse(runs[low], best))
            # In the constrained form a step size above 1 means nothing.
            open_high = (high == best.lr or (surely and not self.worse(runs[high], best))) and high * LR_STEP <= 1.0
            if not open_low and not open_high:
                return best.lr
            if len(ladder) >= MAX_LADDER:
                if low < best.lr < high and not (open_low and open_high):
                    return best.lr
                raise NotEnoughEvidenceError(
                    f"not enough evidence: {len(ladder)} step sizes from {low:.2g} to {high:.2g} at batch size {batch_size} are "
                    "not told "
                    f"apart after {self.num_examples} examples; raise --budget-steps for longer runs, or give tuned settings: "
                    "--base-batch-size, --base-lr and --base-tokens"
                )
            # Towards the better side first.
            if open_high and (not open_low or runs[high].end_loss < runs[low].end_loss):
                ladder.append(high * LR_STEP)
            else:
                ladder.append(low / LR_STEP)

    def lr_exponent(self, size: int, lr: float) -> float:
        """How the best step size moves with the budget: runs at a constant one hold the runs of smaller budgets."""
        ladder = {each: run for (number, each), run in self.runs.items() if number == size}
        early = min(ladder, key=lambda each: ladder[each].prefix(self.num_examples // EARLY).end_loss)
        return math.log(lr / early) / math.log(EARLY)

    @staticmethod
    def worse(run: ShortRun, best: ShortRun, by: float = 0.0) -> bool:
        return excess_loss(run, best).low > by

    def allowed(self, best: ShortRun) -> float:
        """What a batch may end above the best one: a part of what that one gained, nothing where it gained nothing."""
        return max(0.0, TOLERANCE * (best.losses[0] - best.end_loss))

    def sizes_kept(self, size: int, best: ShortRun, allowed: float) -> Interval:
        by_size: dict[int, ShortRun] = {}
        for (each, _), run in self.runs.items():
            if each not in by_size or run.end_loss < by_size[each].end_loss:
                by_size[each] = run
        kept = [each for each, run in by_size.items() if each == size or not self.worse(run, best, allowed)]
        room = math.sqrt(BATCH_STEP)
        return Interval(value=float(size), low=max(1.0, min(kept) / room), high=max(kept) * room)

    def lrs_kept(self, size: int, lr: float) -> Interval:
        best = self.run(size, lr)
        kept = [run.lr for (each, _), run in self.runs.items() if each == size and not self.worse(run, best)]
        room = math.sqrt(LR_STEP)
        return Interval(value=lr, low=min(*kept, lr) / room, high=max(*kept, lr) * room)
