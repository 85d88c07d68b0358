"""The section of the searches: what is recommended and how sure that is, the model in pictures, the course, and every trial."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from batchwright.core.study_record import Panel, Series, StudyFigure
from batchwright.report.elements import Html, bullets, card, cards, figure, section, table, tag
from batchwright.report.figures.study import study_plot
from batchwright.report.figures.style import shorten
from batchwright.report.figures.tuning import profile_figure, slice_figure
from batchwright.report.text import count, duration, estimate, plural
from batchwright.report.tuning_records import TuningRecords

MAX_TRIALS = 200


def tuning_headline(searches: Sequence[TuningRecords]) -> str:
    """What one search recommends, in a sentence; how many there are of several."""
    if len(searches) != 1:
        return plural(len(searches), "search") + "es of settings" if len(searches) > 1 else "no search"
    found = searches[0]
    if found.expected is None:
        return f"{found.task}: a search that has not finished a round"
    return f"{found.task}: {setting_text(found.values)}, expected {found.metric} {estimate(found.expected.value)}"


def tuning_section(found: TuningRecords, name: str, title: str) -> Html:
    """Everything about one search."""
    drawn = [each for each in (slice_figure(found), profile_figure(found)) if each is not None]
    if len(found.trials) > 1:
        drawn.append(study_plot(_course(found)))
    return section(
        name,
        title,
        cards(*_cards(found)) if found.expected is not None else "",
        bullets([shorten(line, 600) for line in found.lines]),
        tag("div", *(figure(each, f"{name}-{each.name}") for each in drawn), class_="figures") if drawn else "",
        _optima_table(found),
        _trial_table(found),
    )


def setting_text(values: Mapping[str, Any]) -> str:
    """``lr 0.05, batch_size 64``."""
    return shorten(", ".join(f"{name} {_value(value)}" for name, value in values.items()), 160)


def _cards(found: TuningRecords) -> list[Html]:
    assert found.expected is not None  # whoever calls has looked
    ended = sum(trial.copied_from is None for trial in found.trials)
    spent = sum(trial.num_examples for trial in found.trials if trial.copied_from is None)
    saved = found.budget * ended
    return [
        card(f"Expected {found.metric}", estimate(found.expected.value), "two standard deviations", found.expected),
        card(
            "Worst when off",
            estimate(found.worst) if found.robust else "–",
            _off(found) if found.robust else "a plain search",
        ),
        card(
            "The optimum is better by", found.bound if found.course else "unknown", "at most; see what stands behind it"
        ),
        card(
            "Trials",
            f"{count(float(len(found.trials)))} of {count(float(sum(found.plan)))}",
            f"{_rounds(found)}; {duration(found.seconds)}",
        ),
        card(
            "Examples saved",
            f"{100 * max(0.0, 1 - spent / saved):.0f} %" if saved > 0 else "–",
            "by trials that ended early",
        ),
    ]


def _off(found: TuningRecords) -> str:
    return shorten(", ".join(f"{name} by {words}" for name, words in found.perturbed_by.items()), 90)


def _rounds(found: TuningRecords) -> str:
    return f"{plural(len(found.plan), 'round')} of " + ", ".join(str(each) for each in found.plan[:8])


def _course(found: TuningRecords) -> StudyFigure:
    """Every trial, and what was recommended after each round."""
    known = [trial for trial in found.trials if math.isfinite(trial.value)]
    series = [
        Series(
            name=words,
            x=tuple(float(trial.id + 1) for trial in known if trial.status == status),
            y=tuple(trial.value for trial in known if trial.status == status),
            colour=colour,
            dash=colour,
            line=False,
        )
        for colour, (status, words) in enumerate(
            (("done", "trial"), ("stopped", "stopped early, foreseen"), ("diverged", "diverged, as untrained"))
        )
        if any(trial.status == status for trial in known)
    ]
    after = tuple(float(number) for number, _, _ in found.course)
    series.append(Series(name="recommended, expected", x=after, y=tuple(mean for _, mean, _ in found.course), colour=3))
    if found.robust:
        series.append(
            Series(name="recommended, worst", x=after, y=tuple(worst for _, _, worst in found.course), colour=3, dash=1)
        )
    log = found.log_scale and all(y > 0 for each in series for y in each.y)
    panel = Panel(title="", x_name="trials", y_name=found.metric, series=tuple(series), y_log=log)
    return StudyFigure(
        name="course",
        title="The course of the search",
        caption="Each trial, and after each round what the model expects of the setting that it recommends; the best trial is mostly "
        "the luckiest, so it is not followed.",
        panels=(panel,),
    )


def _optima_table(found: TuningRecords) -> Html:
    if not found.values:
        return Html("")
    rows = [("recommended", found.values), ("plain optimum", found.plain), ("robust optimum", found.robust_values)]
    names = list(found.values)
    body = [[what, *(_value(values.get(name)) for name in names)] for what, values in rows if values]
    off = f"; the robust one is for {_off(found)}" if found.perturbed_by else ""
    return table(f"The optima of the model{off}", ["", *names], body)


def _trial_table(found: TuningRecords) -> Html:
    if not found.trials:
        return Html("")
    names = list(found.trials[0].values)
    shown = found.trials[:MAX_TRIALS]
    head = ["trial", "round", *names, found.metric, "end", "examples", "time", "note"]
    body = [
        [
            str(trial.id),
            str(trial.round + 1),
            *(_value(trial.values.get(name)) for name in names),
            estimate(trial.value) if math.isfinite(trial.value) else "–",
            trial.status if trial.copied_from is None else f"as trial {trial.copied_from}",
            count(trial.num_examples),
            duration(trial.seconds),
            shorten(trial.note, 160),
        ]
        for trial in shown
    ]
    rest = f"; the first {MAX_TRIALS} of {len(found.trials)}" if len(found.trials) > MAX_TRIALS else ""
    texts = {2 + len(names) + 1, 2 + len(names) + 4}
    return table(f"Trials{rest}", head, body, texts=texts)


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return shorten(str(value), 40)
    return count(value) if isinstance(value, int) else estimate(value)
