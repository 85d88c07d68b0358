"""Pages made from the code: the API, the gallery of examples, and the command line."""

import ast
import importlib
from pathlib import Path

import batchwright

ROOT = Path(__file__).resolve().parents[2]
ROOM_WORDS = {
    "adapt": "Batch-size controllers: state and measurement in, state and decision out.",
    "bandits": "Search in few parallel rounds, with a bound on what is recommended.",
    "capacity": "Associative memory: how much a step of SGD, Muon or Newton stores.",
    "gan": "MMD GAN, two-sample tests and kernel distances.",
    "integrations": "Callbacks for Lightning, transformers and Accelerate, and sinks.",
    "measure": "Noise, curvature, memory and time of a training job; each leaves the job as it was.",
    "nn": "Normalization for small batches, and conversion of models that exist.",
    "optim": "Muon and Scion.",
    "planning": "From measurements to a plan, and from tokens to a run of Scion.",
    "rl": "Safe policy gradients.",
    "tuning": "Parallel tuning on an engine.",
}


def rooms():
    """The public rooms, sorted."""
    return sorted(name for name in batchwright.__all__ if name in batchwright._ROOMS)


def names_of(room):
    """The exported names of a room."""
    module = importlib.import_module(f"batchwright.{room}")
    return sorted({*module.__all__, *late(module)}, key=str.lower)


def late(module):
    """Names that a room imports when they are first asked for, because they need an extra, with their modules."""
    return getattr(module, "_PLACES", {})


def made():
    """All pages, by their place in the site."""
    top = [name for name in batchwright.__all__ if name not in batchwright._ROOMS]
    pages = {"api/index.md": _api_index(top), "gallery.md": gallery(), "cli.md": command_line()}
    for room in rooms():
        parts = [
            f"# bw.{room}",
            ROOM_WORDS.get(room, ""),
            "In shapes: `B` batch, `N` data set, `D` parameters or dimensions, `C` channels or classes, `Q` points a round, `T` time.",
        ]
        parts += [_entry(f"batchwright.{room}", name) for name in names_of(room)]
        pages[f"api/{room}.md"] = "\n\n".join(parts) + "\n"
    return pages


def _api_index(top):
    lines = ["# The API", "", "`import batchwright as bw`; every name below is stable. Rooms:", ""]
    lines += [f"- [bw.{room}]({room}.md): {ROOM_WORDS.get(room, '')} {len(names_of(room))} names." for room in rooms()]
    inside = {name: room for room in rooms() for name in names_of(room)}
    for name in top:
        # A name is described once, in its room where that exports it too.
        told = (
            f"## bw.{name} {{ #{name} }}\n\nIn [bw.{inside[name]}]({inside[name]}.md)."
            if name in inside
            else _entry("batchwright", name)
        )
        lines += ["", told]
    return "\n".join(lines) + "\n"


def _entry(module, name):
    room = importlib.import_module(module)
    if room is not batchwright and name in late(room):
        return f"::: {late(room)[name]}.{name}"
    value = getattr(room, name)
    home = getattr(value, "__module__", None)
    if isinstance(value, type) or callable(value):
        return f"::: {home}.{value.__name__}" if _is_there(home, value) else f"## {name}\n\nSee `{home}`."
    if isinstance(value, type(ast)):
        return f"::: {value.__name__}"
    return f"::: {module}.{name}"


def _is_there(home, value):
    return getattr(importlib.import_module(home), getattr(value, "__name__", ""), None) is value


def studies():
    """The pages of the studies, in the order of their registry."""
    from batchwright.studies.registry import REGISTRY

    return [f"studies/{name}.md" for name in REGISTRY]


def title(path):
    """The first heading of a page, as the navigation shows it: without markup."""
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").replace("`", "")


def gallery():
    """Every example with what it says of itself and its whole text."""
    parts = [
        "# Gallery of examples",
        "Each is one file that runs by itself and is run by a test; those for Lightning, transformers, Accelerate and "
        "stable-baselines3 where the library is installed. Copy one and change it. On two cores each took 2 to 15 s (2026-11-26).",
    ]
    examples = [(path, path.read_text(encoding="utf-8")) for path in sorted((ROOT / "examples").glob("*.py"))]
    words = {path: (ast.get_docstring(ast.parse(text)) or "").strip().partition("\n\n") for path, text in examples}
    rows = [f"| [{path.stem}](#{path.stem}) | {' '.join(words[path][0].split())} |" for path, _ in examples]
    parts.append("\n".join(["| example | what it does |", "|---|---|", *rows]))
    for path, text in examples:
        first, _, rest = words[path]
        parts += [f"## {path.stem.replace('_', ' ')} {{ #{path.stem} }}", " ".join(first.split()), rest]
        parts += [
            f'??? example "examples/{path.name}"',
            "\n".join(f"    {line}" for line in ["```python", *text.splitlines(), "```"]),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def command_line():
    """What `--help` says, of every command."""
    import typer

    from batchwright.cli.app import app

    group = typer.main.get_command(app)
    parts = [
        "# The command line",
        "Exit codes: 0 done, 2 bad input (one line says what), 3 not enough evidence, 1 a failure of ours, 130 interrupted with a "
        "record that can be resumed. An error names the option that it is about. What `--json` prints: [JSON documents](json.md).",
    ]
    for name, command in group.commands.items():
        parts += [f"## batchwright {name}", "```text", _help(command, name), "```"]
    return "\n\n".join(parts) + "\n"


def _help(command, name):
    context = command.make_context(
        f"batchwright {name}", [], resilient_parsing=True, max_content_width=100, terminal_width=100
    )
    return command.get_help(context).strip()
