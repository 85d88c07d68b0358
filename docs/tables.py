"""Write the tables of docs/batch_changes.md and docs/controllers.md from the code: ``python docs/tables.py``; a test compares them."""

import dataclasses
import inspect
import re
from pathlib import Path

from batchwright.adapt import REGISTRY, check_optimizer, parse_policy
from batchwright.adapt.limits import Limits
from batchwright.adapt.options import EXAMPLES
from batchwright.core.errors import InputError
from batchwright.planning import RULES
from batchwright.planning.batch_rules import OPTIMIZERS

HERE = Path(__file__).parent
BEGIN, END = "<!-- made by docs/tables.py: begin -->", "<!-- made by docs/tables.py: end -->"


def batch_changes() -> str:
    """The rules by setting, then what is refused and why."""
    lines = ["| setting | rule | new value | default for | also for | source |", "|---|---|---|---|---|---|"]
    for rule in RULES:
        also = [name for name in rule.optimizers if name not in rule.default_for]
        cells = (rule.setting, f"`{rule.name}`", rule.formula, _names(rule.default_for), _names(also), rule.source)
        lines.append(_row(cells))
    lines += ["", "| refused | for | because |", "|---|---|---|"]
    for rule in RULES:
        for reason in dict.fromkeys(rule.refusals.values()):
            names = [name for name in OPTIMIZERS if rule.refusals.get(name) == reason]
            lines.append(_row((f"`{rule.name}` of {rule.setting}", _names(names), reason)))
    return "\n".join(lines)


def controllers() -> str:
    """The controllers: what each does, looks at and refuses; then the options."""
    lines = ["| `--policy` | what it does | looks at | optimizers | source |", "|---|---|---|---|---|"]
    options = ["| `--policy` | options, with their defaults |", "|---|---|"]
    shared = {field.name: field.default for field in dataclasses.fields(Limits)}
    for name in sorted(REGISTRY):
        kind = REGISTRY[name]
        controller = parse_policy(EXAMPLES[name])
        document = inspect.cleandoc(inspect.getmodule(kind).__doc__ or "")
        summary = " ".join(document.split("\n\n")[0].split()).rstrip(".").replace("``", "`")
        found = re.search(r"Sources?: (.*?)(?=\n\n|\nDeviation|$)", document, re.DOTALL)
        source = " ".join(found.group(1).split()).rstrip(".") if found else ""
        holds = []
        for optimizer in OPTIMIZERS:
            try:
                check_optimizer(controller, optimizer)
                holds.append(optimizer)
            except InputError:
                pass
        needs = ", ".join(sorted(controller.needs)) or "nothing"
        names = "all" if len(holds) == len(OPTIMIZERS) else _names(holds)
        if name == "cabs":
            names += " without momentum"
        lines.append(_row((f"`{EXAMPLES[name]}`", summary, needs, names, source.replace("``", "`"))))
        own = [
            f"{field.name}={_default(field)}"
            for field in dataclasses.fields(kind)
            if not (issubclass(kind, Limits) and shared.get(field.name, object()) == field.default)
        ]
        also = "the shared ones" if issubclass(kind, Limits) else ""
        options.append(_row((f"`{name}`", "; ".join(filter(None, [", ".join(own), also])) or "none")))
    options.insert(2, _row(("shared", ", ".join(f"{name}={value}" for name, value in shared.items()))))
    return "\n".join([*lines, "", *options])


TABLES = {"batch_changes.md": batch_changes, "controllers.md": controllers}


def updated(name: str) -> str:
    """The page as it should be: its own words, and the table of the code between the two marks."""
    before, _, rest = (HERE / name).read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{TABLES[name]()}\n{END}{rest.partition(END)[2]}"


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return "{}" if field.default_factory is not dataclasses.MISSING else "(needed)"
    return str(field.default)


def _names(names) -> str:
    return ", ".join(names) or "–"


def _row(cells) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    for page in TABLES:
        (HERE / page).write_text(updated(page), encoding="utf-8")
