"""What the results say: who reaches the target, the critical size of each optimizer, and whose is larger."""

import math
from collections.abc import Sequence
from itertools import combinations

from batchwright.core.statistics import Interval
from batchwright.core.study_record import Row
from batchwright.studies.critical_batch.race import RaceResult
from batchwright.studies.critical_batch.results import OptimizerResult, SizeResult, geometric, ratio
from batchwright.studies.verdict import judge, judge_interval
from batchwright.tasks.task import Target
from batchwright.training.sweep_fit import ABOVE, BELOW

REACHED, CRITICAL, COMPARED, RACED = (
    "Runs to the target",
    "Critical batch sizes",
    "Whose critical batch size is larger",
    "The race",
)


def target_words(target: Target) -> str:
    """The target in a few words."""
    return f"{target.metric} {target.direction} {target.value:g}"


def reached_rows(found: Sequence[OptimizerResult], target: Target) -> list[Row]:
    """Steps to the target at each batch size, of every optimizer."""
    return [_reached(each.name, size, target) for each in found for size in each.sizes]


def _reached(name: str, size: SizeResult, target: Target) -> Row:
    steps = list(size.steps.values())
    there = sum(map(math.isfinite, steps))
    if not size.tried:
        # The search at the task's own batch size never got there, or this one's turn has not come.
        note = "no run yet, or none since the target was not reached at the task's own batch size"
    elif size.lr is None:
        note = f"not reached at any of {len(size.tried)} learning rates ({_span(size)})"
    else:
        edge = ", at an end of them" if size.lr_at_edge else ""
        note = f"lr {size.lr:.4g} of {len(size.tried)} tried ({_span(size)}){edge}; {there} of {len(steps)} seeds reached it"
    if there < len(steps) or (size.lr is None and size.skipped):
        verdict = "does not hold"
    else:
        verdict = "holds" if steps and len(steps) == size.planned else "not there yet"
    return Row(
        what=f"{name}, batch size {size.batch_size}: steps to {target_words(target)}",
        group=REACHED,
        claim="every seed reaches it; geometric mean",
        published=None,
        measured=geometric(steps) if steps and there == len(steps) else None,
        seeds=tuple(size.steps),
        low=0.0,
        high=math.inf,
        verdict=verdict,
        note=note,
    )


def _span(size: SizeResult) -> str:
    lrs = sorted(each.lr for each in size.tried)
    return f"{lrs[0]:.3g} to {lrs[-1]:.3g}" if lrs else "none"


def critical_rows(found: Sequence[OptimizerResult]) -> list[Row]:
    """The fitted critical size of each optimizer; it holds where the interval lies in the range where a fit is looked for."""
    return [_critical(each) for each in found]


def _critical(each: OptimizerResult) -> Row:
    interval, law, data = each.critical(), each.hyperbola(), each.examples()
    sizes = [size.batch_size for size in each.sizes]
    low, high = sizes[0] / BELOW, sizes[-1] * ABOVE
    if interval is None or law is None or data is None:
        if all(size.lr is None for size in each.sizes) and any(size.skipped for size in each.sizes):
            verdict, note = "does not hold", "the target was never reached"
        else:
            finished = all(len(size.steps) == size.planned for size in each.sizes)
            verdict = "not resolved" if finished else "not there yet"
            note = "a fit needs three batch sizes at which every seed reaches the target"
    else:
        verdict = judge_interval(interval, low, high)
        worst = max(abs(math.log(row.mean() / size / law.steps(size))) for size, row in zip(*data, strict=True))
        note = (
            f"{law.min_steps:.3g} steps in the limit of large batches; batch sizes {', '.join(f'{size:g}' for size in data[0])}; "
            f"the law is off by {math.expm1(worst):.0%} at most"
        )
    return Row(
        what=f"{each.name}: critical batch size, in examples",
        group=CRITICAL,
        claim="resolved: the interval lies in the range in which a fit is looked for",
        published=None,
        measured=interval,
        seeds=tuple(each.sizes[0].steps) if data is not None else (),
        low=low,
        high=high,
        verdict=verdict,
        note=note,
    )


def compared_rows(found: Sequence[OptimizerResult]) -> list[Row]:
    """Of each pair, whether the larger critical size is seen to be larger: not resolved where their intervals overlap.

    For Muon the claim is the paper's, that it saturates later; of any other pair the larger one is held against the smaller.
    """
    rows = []
    for one, other in combinations(found, 2):
        mine, theirs = one.critical(), other.critical()
        if mine is None or theirs is None:
            continue
        claimed = "muon" in (one.name, other.name)
        swap = other.name == "muon" if claimed else theirs.value > mine.value
        first, second = (other, one) if swap else (one, other)
        between = ratio(first, second)
        overlap = mine.low <= theirs.high and theirs.low <= mine.high
        if between is None:
            continue
        verdict = "not resolved" if overlap else judge_interval(between, 1.0, math.inf)
        rows.append(
            Row(
                what=f"critical batch size of {first.name} over that of {second.name}",
                group=COMPARED,
                claim="Muon saturates later: above 1" if claimed else "the larger one is seen to be larger: above 1",
                published=None,
                measured=between,
                seeds=(),
                low=1.0,
                high=math.inf,
                verdict=verdict,
                note="their intervals overlap" if overlap else "their intervals lie apart",
            )
        )
    return rows


def race_rows(found: Sequence[RaceResult], target: Target) -> list[Row]:
    """The value that the first optimizer reaches, and the steps of every other to it."""
    if not found or not found[0].ends:
        return []
    first = found[0]
    goal, _ = judge(list(first.ends.values()), -math.inf, math.inf)
    rows = [
        Row(
            what=f"{first.name}: {target.metric} after {first.num_steps} steps",
            group=RACED,
            claim="its mean over the seeds is what the others have to reach",
            published=None,
            measured=goal,
            seeds=tuple(first.ends),
            low=min(0.0, goal.low if goal is not None else 0.0),
            high=math.inf,
            verdict="holds" if len(first.ends) == first.planned else "not there yet",
            note=f"lr {first.lr:.4g} {first.lr_words}",
        )
    ]
    for each in found[1:]:
        if not each.steps:
            rows.append(_race_row(each, first, None, "not there yet", ""))
            continue
        steps = list(each.steps.values())
        missed = sum(not math.isfinite(value) for value in steps)
        measured = geometric(steps) if not missed else None
        if len(steps) < each.planned:
            verdict = "not there yet"
        else:
            verdict = judge_interval(measured, 0.0, float(first.num_steps)) if measured is not None else "does not hold"
        words = f"{missed} of {len(steps)} seeds did not reach it in {each.num_steps} steps" if missed else ""
        rows.append(_race_row(each, first, measured, verdict, words))
    return rows


def _race_row(each: RaceResult, first: RaceResult, measured: Interval | None, verdict: str, words: str) -> Row:
    lr = f"lr {each.lr:.4g} {each.lr_words}" if each.lr is not None else "no learning rate yet"
    return Row(
        what=f"{each.name}: steps to that",
        group=RACED,
        claim=f"fewer than the {first.num_steps} of {first.name}",
        published=None,
        measured=measured,
        seeds=tuple(each.steps),
        low=0.0,
        high=float(first.num_steps),
        verdict=verdict,
        note="; ".join(part for part in (lr, words) if part),
    )
