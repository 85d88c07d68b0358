"""Write the tables of docs that the code decides, into the pages of `TABLES`: ``python docs/tables.py``; a test compares them."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

from batchwright.adapt import REGISTRY, Controller, check_optimizer, parse_policy
from batchwright.adapt.limits import Limits
from batchwright.adapt.options import example
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
        controller = parse_policy(example(name))
        summary = " ".join(_document(kind).split("\n\n")[0].split()).rstrip(".").replace("``", "`")
        holds = [optimizer for optimizer in OPTIMIZERS if _goes_with(controller, optimizer, momentum=0.0)]
        needs = ", ".join(sorted(controller.needs)) or "nothing"
        names = "all" if len(holds) == len(OPTIMIZERS) else _names(holds)
        if "sgd" in holds and not _goes_with(controller, "sgd", momentum=0.9):
            names += " without momentum"
        lines.append(_row((f"`{example(name)}`", summary, needs, names, _source(kind))))
        own = [
            f"{field.name}={_default(field)}"
            for field in dataclasses.fields(kind)
            if not (issubclass(kind, Limits) and shared.get(field.name, object()) == field.default)
        ]
        also = "the shared ones" if issubclass(kind, Limits) else ""
        options.append(_row((f"`{name}`", "; ".join(filter(None, [", ".join(own), also])) or "none")))
    options.insert(2, _row(("shared", ", ".join(f"{name}={value}" for name, value in shared.items()))))
    return "\n".join([*lines, "", *options])


def _goes_with(controller: Controller, optimizer: str, *, momentum: float) -> bool:
    try:
        check_optimizer(controller, optimizer, momentum=momentum)
    except InputError:
        return False
    return True


def bandits() -> str:
    """The bandits, from their classes."""
    from batchwright.bandits import REGISTRY as BANDITS

    lines = ["| class | `--method` | a round is | `keep=` |", "|---|---|---|---|"]
    for name, kind in BANDITS.items():
        lines.append(_row((f"`{kind.__name__}`", f"`{name}`", _first_line(kind), kind.keep_default)))
    return "\n".join(lines)


def targets() -> str:
    """What `nn.convert` can make of batch norms: from each target's docstring and signature."""
    from batchwright.nn import REGISTRY as TARGETS

    lines = ["| `to=` | what it does | options, with their defaults |", "|---|---|---|"]
    for name in sorted(TARGETS):
        options = list(inspect.signature(TARGETS[name]).parameters.values())[1:]
        told = ", ".join(f"`{option.name}={option.default}`" for option in options)
        lines.append(_row((f"`{name}`", _first_line(TARGETS[name]), told or "none")))
    return "\n".join(lines)


def studies() -> str:
    """The studies of the registry; each has a page of its name."""
    from batchwright.studies.registry import REGISTRY as STUDIES

    lines = [
        "| study | title | source | presets beside smoke, laptop, paper | options of its own |",
        "|---|---|---|---|---|",
    ]
    for name, study in STUDIES.items():
        options = ", ".join(f"`--{option}`" for option in study.options)
        lines.append(
            _row((f"[{name}]({name}.md)", study.title, study.source, _names(study.more_presets), options or "–"))
        )
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class System:
    """One of the research systems the library is built from, and what stands for it; `systems` looks each of them up in the code."""

    paper: str
    names: tuple[str, ...]
    command: str
    options: tuple[str, ...]
    studies: tuple[str, ...]
    page: str
    benchmark: str


SYSTEMS = (
    System("MMD GAN (Li et al. 2017)", ("gan.MMDGAN", "gan.mmd2"), "gan", (), ("mmd-gan",), "gan.md", "Squared MMD"),
    System(
        "Momentum at the edge of stochastic stability (Andreyev et al. 2026)",
        ("measure.stability", "measure.StabilityMonitor"),
        "train",
        ("--stability",),
        ("eoss",),
        "stability.md",
        "The stability gauge beside a run",
    ),
    System(
        "Spectral optimizers in associative memory (Kim et al. 2026)",
        ("optim.Muon", "capacity.predict"),
        "study",
        ("--optimizer",),
        ("associative-memory", "critical-batch"),
        "optim.md",
        "Muon",
    ),
    System(
        "Batch size in stochastic conditional gradient (Islamov et al. 2026)",
        ("optim.Scion", "planning.token_budget"),
        "plan",
        ("--tokens",),
        ("conditional-gradient",),
        "token_budget.md",
        "A plan for a budget of tokens",
    ),
    System(
        "Adaptive batch size for safe policy gradients (Papini et al. 2017)",
        ("rl.SafePolicyGradient", "rl.optimal_step"),
        "rl",
        ("--delta",),
        ("safe-pg",),
        "rl.md",
        "Safe policy gradients",
    ),
    System(
        "Train longer, generalize better (Hoffer et al. 2017)",
        ("nn.GhostBatchNorm2d", "planning.Regime"),
        "plan",
        ("--regime",),
        ("train-longer",),
        "regime.md",
        "Normalization layers",
    ),
    System(
        "Kalman normalization (Wang et al. 2018)",
        ("nn.KalmanNorm2d", "nn.convert"),
        "train",
        ("--micro-batch-size",),
        ("kalman-norm",),
        "nn.md",
        "Normalization layers",
    ),
    System(
        "Batched kernelized bandits (Ma et al. 2026)",
        ("bandits.BPE", "bandits.RobustBPE"),
        "tune",
        (),
        ("batched-bandits",),
        "bandits.md",
        "Bandits",
    ),
)
NOT_THERE = "not there yet"


def systems() -> str:
    """The systems by what stands for each; a cell that the code does not bear out says so."""
    import batchwright
    from batchwright.studies.registry import REGISTRY as STUDIES

    commands = command_options()
    headings = re.findall(r"^## (.*)$", (HERE / "benchmarks.md").read_text(encoding="utf-8"), re.M)
    lines = ["| system | Python | command | study | page | benchmark |", "|---|---|---|---|---|---|"]
    for each in SYSTEMS:
        names = [name for name in each.names if _resolves(batchwright, name)]
        there = each.command in commands and set(each.options) <= commands[each.command]
        called = " ".join(("batchwright", each.command, *each.options))
        studies = [
            f"[{name}](studies/{name}.md)"
            for name in each.studies
            if name in STUDIES and (HERE / "studies" / f"{name}.md").exists()
        ]
        anchor = re.sub(r"[^\w -]", "", each.benchmark.lower()).replace(" ", "-")
        cells = (
            each.paper,
            ", ".join(f"`bw.{name}`" for name in names) or NOT_THERE,
            f"`{called}`" if there else NOT_THERE,
            ", ".join(studies) or NOT_THERE,
            f"[{each.page.removesuffix('.md')}]({each.page})" if (HERE / each.page).exists() else NOT_THERE,
            f"[{each.benchmark}](benchmarks.md#{anchor})" if each.benchmark in headings else NOT_THERE,
        )
        lines.append(_row(cells))
    return "\n".join(lines)


def command_options() -> dict[str, set[str]]:
    """The options of every command, as the parser has them."""
    import typer

    from batchwright.cli.app import app

    found = typer.main.get_command(app).commands.items()
    return {name: {word for each in command.params for word in each.opts} for name, command in found}


def _resolves(module, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def envelope() -> str:
    """The fields of what ``--json`` prints, and of the result of each command, from the published schema."""
    import batchwright.cli.output as output

    schema = json.loads((Path(output.__file__).parent / "envelope.schema.json").read_text(encoding="utf-8"))
    lines = ["| field | what |", "|---|---|"]
    lines += [_row((f"`{name}`", each["description"])) for name, each in schema["properties"].items()]
    costs = {
        rule["if"]["properties"]["command"]["const"]: rule["then"]["properties"]
        .get("cost", {})
        .get("required", ["seconds"])
        for rule in schema["allOf"]
    }
    lines += ["", "| `command` | `result` has | `cost` has |", "|---|---|---|"]
    for name, result in schema["$defs"]["results"].items():
        fields = ", ".join(f"`{field}`" for field in result.get("properties", {})) or "an object"
        lines.append(_row((f"`{name}`", fields, ", ".join(f"`{field}`" for field in costs[name]))))
    return "\n".join(lines)


TABLES = {
    "bandits.md": bandits,
    "batch_changes.md": batch_changes,
    "controllers.md": controllers,
    "json.md": envelope,
    "nn.md": targets,
    "studies/README.md": studies,
    "systems.md": systems,
}


def updated(name: str) -> str:
    """The page as it should be: its own words, and the table of the code between the two marks."""
    before, _, rest = (HERE / name).read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{TABLES[name]()}\n{END}{rest.partition(END)[2]}"


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return "{}" if field.default_factory is not dataclasses.MISSING else "(needed)"
    return str(field.default)


def _document(kind: type) -> str:
    """What the module of a class says of itself."""
    return inspect.cleandoc(getattr(inspect.getmodule(kind), "__doc__", None) or "")


def _source(kind: type) -> str:
    found = re.search(r"Sources?: (.*?)(?=\n\n|\nDeviation|$)", _document(kind), re.DOTALL)
    return " ".join(found.group(1).split()).rstrip(".").replace("``", "`") if found else ""


def _first_line(named) -> str:
    return inspect.cleandoc(named.__doc__ or "").split("\n")[0].rstrip(".").replace("``", "`")


def _names(names) -> str:
    return ", ".join(names) or "–"


def _row(cells) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    for page in TABLES:
        (HERE / page).write_text(updated(page), encoding="utf-8")
