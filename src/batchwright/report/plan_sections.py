"""The sections of a page that tell one plan: the answer, why, how sure, what it cost, and the check against its neighbours."""

import math
from collections.abc import Sequence

from batchwright.core.statistics import Interval
from batchwright.report.elements import Html, bullets, card, cards, figure, join, section, tag
from batchwright.report.figures import (
    calibration_figure,
    pilot_noise_figure,
    prediction_figure,
    step_time_figure,
    verification_figure,
)
from batchwright.report.plan_certainty import certainty
from batchwright.report.plan_records import PlanRecord, Setting, VerificationRecord
from batchwright.report.text import (
    Format,
    count,
    duration,
    estimate,
    human,
    percent,
    plural,
    ratio,
    span,
    value_or_bound,
)


def headline(plan: PlanRecord) -> str:
    """The plan in one sentence."""
    interval, lr = plan.intervals.get("batch_size"), _lr_interval(plan)
    momentum = f", momentum {estimate(plan.momentum)}" if plan.momentum is not None else ""
    return (
        f"Train {plan.task} with batch size {count(plan.batch_size)}{_behind(interval, count)}, "
        f"lr {estimate(plan.lr)}{_behind(lr, estimate)}{momentum}; "
        f"micro-batch {count(plan.micro_batch_size)} × {count(plan.num_micro_batches)}"
    )


def answer_cards(plan: PlanRecord) -> Html:
    """The numbers of the answer with their intervals, and below them those that it stands on."""
    size, lr = plan.intervals.get("batch_size"), _lr_interval(plan)
    answer = [
        card("Batch size", count(plan.batch_size), _detail(size, count, _base(plan.base_batch_size, count)), size),
        card("Learning rate", estimate(plan.lr), _detail(lr, estimate, _base(plan.base_lr, estimate)), lr),
    ]
    if plan.momentum is not None:
        second = f"β₂ {plan.beta2:.6g}" if plan.beta2 is not None and "beta2" in plan.reasons else ""
        answer.append(card("Momentum", estimate(plan.momentum), second))
    times = count(plan.num_micro_batches)
    passes = f"{times} forward passes a step" if plan.num_micro_batches > 1 else "one forward pass a step"
    answer.append(card("Micro-batch", f"{count(plan.micro_batch_size)} × {times}", passes))
    if plan.regime is not None:
        extras = [f"clipped at {estimate(plan.regime.max_grad_norm)}"] if plan.regime.max_grad_norm is not None else []
        if plan.regime.noise_batch_size is not None:
            extras.append(f"noise of batch {count(plan.regime.noise_batch_size)}")
        answer.append(
            card("Updates", count(plan.regime.num_updates), ", ".join([plan.regime.name.replace("-", " "), *extras]))
        )
    ground = [
        card(words, value_or_bound(interval), _detail(interval, estimate, "in examples"), interval)
        for key, words in (("noise_scale", "Noise scale"), ("critical_batch_size", "Critical batch size"))
        if (interval := plan.intervals.get(key)) is not None
    ]
    if plan.cost is not None:
        seconds = duration(plan.cost.seconds)
        ground.append(
            card(
                "Cost of finding out", f"{estimate(plan.cost.plain_steps)} steps", f"plain steps of training; {seconds}"
            )
        )
    return join([cards(*answer), cards(*ground)])


def plan_parts(
    plan: PlanRecord, verification: VerificationRecord | None, name: str, title: str
) -> list[tuple[str, str, Html]]:
    """Why, the figures, how sure, what it cost, and the verification: anchor, heading and content of each.

    Args:
        plan: The plan.
        verification: The sweep around it, if there was one.
        name: Begins the anchors, so that several plans fit one page.
        title: Ends the headings where there are several plans, else empty.
    """
    drawn = [
        prediction_figure(plan),
        step_time_figure(plan),
        pilot_noise_figure(plan),
        calibration_figure(plan),
    ]
    figures = [figure(item, f"{name}-{item.name}") for item in drawn if item is not None]
    reasons = [part for key, text in plan.reasons.items() for part in (tag("dt", human(key)), tag("dd", text))]
    contents: dict[str, Sequence[Html]] = {
        "Why": [tag("dl", *reasons)] if reasons else [],
        "Evidence": [tag("div", *figures, class_="figures")] if figures else [],
        "How sure": certainty(plan),
        "What it cost": _cost(plan),
    }
    parts = [
        (anchor, words, section(anchor, words + title, *content))
        for words, content in contents.items()
        if (anchor := f"{name}-{words.split()[-1].lower()}")
    ]
    if verification is not None:
        anchor = f"{name}-verification"
        parts.append((anchor, "Verification", verification_section(verification, anchor, title)))
    return parts


def verification_section(found: VerificationRecord, name: str, title: str) -> Html:
    """The regret of the plan, and every setting that was tried beside it."""
    drawn = verification_figure(found)
    items = []
    for measure, regret, best in (
        ("time", found.regret_seconds, found.best_seconds),
        ("examples", found.regret_examples, found.best_examples),
    ):
        if regret is not None:
            items.append(
                card(
                    f"Regret in {measure}",
                    f"{value_or_bound(regret, ratio)} ×",
                    _detail(regret, ratio, _best(best)),
                    regret,
                )
            )
    num_reached = sum(trial.reached for trial in found.trials)
    told = f"{num_reached} of {plural(len(found.trials), 'trial')} around the plan reached the target"
    meaning = (
        "; regret is what the plan took over what the best setting found took, so 1 is the best." if items else "."
    )
    return section(
        name,
        f"Verification{title}",
        tag("p", told + meaning) if found.trials else "",
        cards(*items),
        tag("div", figure(drawn, f"{name}-{drawn.name}"), class_="figures") if drawn else "",
        bullets(found.notes),
    )


def _cost(plan: PlanRecord) -> list[Html]:
    if plan.cost is None:
        return []
    cost = plan.cost
    told = (
        f"Finding this out took {estimate(cost.plain_steps)} plain steps: {count(cost.num_examples)} examples and "
        f"{duration(cost.seconds)}. A plain step is one optimizer step at the task's default batch size"
    )
    base = f" of {count(plan.base_batch_size)}." if plan.base_batch_size is not None else "."
    total = max(cost.parts.values(), default=0.0)
    bars = [
        part
        for name, steps in cost.parts.items()
        for part in (
            tag("span", human(name)),
            tag("div", style=f"width:{_share(steps, total):.1f}%", aria_hidden="true"),
            tag("span", estimate(steps)),
        )
    ]
    return [tag("p", told + base), tag("div", *bars, class_="bars") if bars else Html("")]


def _share(value: float, total: float) -> float:
    return 100 * value / total if 0 < total < math.inf and value >= 0 else 0.0


def _detail(interval: Interval | None, write: Format, after: str) -> str:
    ends = [f"{percent(interval.level)} interval {span(interval, write)}"] if interval is not None else []
    return "; ".join([*ends, *([after] if after else [])])


def _base(value: float | None, write: Format) -> str:
    return f"default {write(value)}" if value is not None else ""


def _best(best: Setting | None) -> str:
    return f"best found: batch size {count(best.batch_size)}, lr {estimate(best.lr)}" if best is not None else ""


def _lr_interval(plan: PlanRecord) -> Interval | None:
    """None where the learning rate is the task's own at its own batch size, which nothing estimates."""
    interval = plan.intervals.get("lr")
    return interval if interval is not None and interval.low < interval.high else None


def _behind(interval: Interval | None, write: Format) -> str:
    return f" ({span(interval, write)})" if interval is not None and span(interval, write) != "unknown" else ""
