"""The rules that hold over the whole tree: the order of the rooms, declared imports, safe loading, and public names."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import batchwright

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "batchwright"
# Data flows down this list: a room imports from the lines above its own.
ORDER = [
    {"core"},
    {"data"},
    {"tasks"},
    {"nn", "optim", "bandits", "capacity"},
    {"measure"},
    {"planning"},
    {"adapt"},
    {"training"},
    {"rl", "gan", "tuning"},
    {"studies"},
    {"report"},
    {"integrations"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
ROOM_OF_EXTRA = {
    "images": "data",
    "report": "report",
    "rl": "rl",
    "tune": "tuning",
    "lightning": "integrations",
    "transformers": "integrations",
    "tensorboard": "integrations",
    "wandb": "integrations",
}
DISTRIBUTION_OF_MODULE = {"sklearn": "scikit-learn", "PIL": "pillow"}
LOADED_LATE = {"PIL", "sklearn", "plotly", "scipy", "typer", "rich", "matplotlib"}
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module: where, and whether it is imported as soon as the importing module is."""

    target: str
    line: int
    at_once: bool


@cache
def sources() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path) -> list[Import]:
    """All imports of a file, those inside functions and those for the type checker alone included."""
    return list(_imports(tree_of(path), at_once=True))


def _imports(node: ast.AST, at_once: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(target=alias.name, line=child.lineno, at_once=at_once)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            for alias in child.names:
                whole = f"{base}.{alias.name}"
                yield Import(target=whole if whole in sources() else base, line=child.lineno, at_once=at_once)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield from _imports(ast.Module([part], []), at_once=False)
            for part in child.orelse:
                yield from _imports(ast.Module([part], []), at_once=at_once)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, at_once=at_once and not inside)


def named_modules(path: Path) -> list[Import]:
    """Modules of the package that a file names in a string, alone or before a name in them, to be imported later."""
    pattern = re.compile(r"batchwright(\.\w+)+")
    return [
        Import(target=target, line=node.lineno, at_once=False)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (found := pattern.fullmatch(node.value.split(":")[0])) and (target := nearest_module(found.group()))
    ]


def nearest_module(name: str) -> str:
    """The module that a dotted name is, or lies in; empty where that is no more than the package."""
    while name not in sources() and "." in name:
        name = name.rpartition(".")[0]
    return name if "." in name else ""


def room_of(module: str) -> str | None:
    """The room of a module of the package; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def may_import(room: str, other: str | None) -> bool:
    if other is None:  # the package itself stands below all rooms but the outermost
        return room in ("integrations", "cli")
    if room == "report":
        return other in ("core", "report")
    return other == room or LEVEL[other] < LEVEL[room]


@cache
def declared() -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    """Declared distributions: those of the core, and those of each extra but the developers' two."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> frozenset[str]:
        return frozenset(re.match(r"[\w.-]+", requirement).group().lower() for requirement in requirements)

    extras = {
        name: names(wanted) for name, wanted in project["optional-dependencies"].items() if name not in ("dev", "docs")
    }
    return names(project["dependencies"]), extras


# The order of the rooms


def test_every_folder_of_the_package_is_a_room_of_the_design():
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= LEVEL.keys()


@pytest.mark.parametrize("module", [module for module in sources() if room_of(module) in LEVEL])
def test_a_room_imports_only_from_rooms_above_it(module):
    room, path = room_of(module), sources()[module]
    wrong = [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.target}"
        for found in imports_of(path) + named_modules(path)
        if found.target.split(".")[0] == "batchwright" and not may_import(room, room_of(found.target))
    ]
    assert not wrong


def test_the_rule_of_the_rooms_is_the_one_of_the_design():
    assert may_import("measure", "data")
    assert not may_import("data", "measure")
    assert may_import("rl", "training")
    for room in ("rl", "gan", "tuning"):
        assert [other for other in ("rl", "gan", "tuning") if may_import(room, other)] == [room]
    assert not may_import("nn", "optim")
    assert [room for room in LEVEL if may_import("report", room)] == ["core", "report"]
    assert not may_import("training", None)


def test_imports_inside_functions_and_for_the_type_checker_are_seen(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        "import os\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from batchwright.core import errors\n"
        "try:\n    import json\nexcept ImportError:\n    pass\n"
        "def f():\n    from batchwright.core.errors import InputError\n"
        "class A:\n    def g(self):\n        import re\n"
        "PLACE = 'batchwright.core.checks:check_int'\n"
        "OTHER = 'batchwright.core.checks.check_int'\n"
        "WORDS = 'see batchwright.core.checks'\n"
    )
    assert [(found.target, found.at_once) for found in imports_of(path) + named_modules(path)] == [
        ("os", True),
        ("typing", True),
        ("batchwright.core.errors", False),
        ("json", True),
        ("batchwright.core.errors", False),
        ("re", False),
        ("batchwright.core.checks", False),
        ("batchwright.core.checks", False),
    ]


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module: {found.target for found in imports_of(path) if found.target in sources()}
        for module, path in sources().items()
        if module != "batchwright"  # it names the rooms, and imports them when they are asked for
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# Imports from outside


@pytest.mark.parametrize("module", sources())
def test_what_a_module_imports_is_declared(module):
    core, extras = declared()
    path, room = sources()[module], room_of(module)
    own = {name for extra, names in extras.items() if ROOM_OF_EXTRA[extra] == room for name in names}
    wrong = []
    for found in imports_of(path):
        top = found.target.split(".")[0]
        distribution = DISTRIBUTION_OF_MODULE.get(top, top)
        anywhere = top in sys.stdlib_module_names or top == "batchwright" or distribution in core
        late = not found.at_once and any(distribution in names for names in extras.values())
        if not (anywhere or late or distribution in own):
            wrong.append(f"{path.relative_to(ROOT)}:{found.line} imports {found.target or 'relatively'}")
    assert not wrong


def test_every_extra_has_a_room():
    assert declared()[1].keys() == ROOM_OF_EXTRA.keys()


def test_importing_the_package_loads_no_heavy_dependency():
    code = (
        "import json, sys, torch\n"
        "before = set(sys.modules)\n"
        "import batchwright\n"
        "dir(batchwright)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not LOADED_LATE & set(json.loads(done.stdout))


# Nothing untrusted is unpickled, and the text names no machine


def python_files() -> list[Path]:
    return [path for folder in ("src", "tests", "examples", "benchmarks") for path in text_files(ROOT / folder, ".py")]


def text_files(folder: Path, suffix: str = "") -> list[Path]:
    skipped = {"__pycache__", "runs"}
    return [
        path
        for path in sorted(folder.rglob(f"*{suffix}"))
        if path.is_file() and not skipped & set(path.parts) and ".egg-info" not in str(path)
    ]


def test_nothing_is_unpickled():
    wrong = []
    for path in python_files():
        wrong += [
            f"{path.relative_to(ROOT)}:{found.line} imports {found.target}"
            for found in imports_of(path)
            if found.target.split(".")[0] in UNPICKLERS
        ]
        wrong += [f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}" for node in unsafe_calls(tree_of(path))]
    assert not wrong


def unsafe_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of ``torch.load`` that are not weights alone, and calls that allow NumPy to unpickle."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            loads = ast.unparse(node.func) == "torch.load" and not is_constant(options.get("weights_only"), True)
            if loads or ("allow_pickle" in options and not is_constant(options["allow_pickle"], False)):
                found.append(node)
    return found


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize(
    ("line", "safe"),
    [
        ("torch.load(path, weights_only=True)", True),
        ("torch.load(path)", False),
        ("torch.load(path, weights_only=False)", False),
        ("torch.load(path, weights_only=flag)", False),
        ("np.load(path, allow_pickle=False)", True),
        ("np.load(path)", True),
        ("np.load(path, allow_pickle=True)", False),
    ],
)
def test_unsafe_calls_are_seen(line, safe):
    assert (not unsafe_calls(ast.parse(line))) is safe


def test_torch_load_goes_by_its_full_name():
    for path in python_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "torch":
                assert "load" not in {alias.name for alias in node.names}, path


def test_the_text_names_no_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.~-])/(?:work|root|home)/")
    folders = [text_files(ROOT / name) for name in ("src", "docs", "tests", "examples", "benchmarks", "changelog.d")]
    files = [
        *(path for folder in folders for path in folder),
        *ROOT.glob("*.md"),
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
    ]
    wrong = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # data
        wrong += [
            f"{path.relative_to(ROOT)}:{number} {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if pattern.search(line)
        ]
    assert not wrong


# Public names


@pytest.mark.parametrize("name", batchwright.__all__)
def test_a_public_name_of_the_package_resolves(name):
    assert getattr(batchwright, name) is not None
    assert getattr(batchwright, name) is getattr(batchwright, name)
    assert name in dir(batchwright)


def test_the_public_names_of_the_package_are_sorted_and_each_there_once():
    assert batchwright.__all__ == in_order(set(batchwright.__all__))


def in_order(names: set[str]) -> list[str]:
    """Constants, classes and functions, each in the order of the alphabet, as ruff sorts ``__all__``."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def test_the_package_names_what_it_has_when_asked_for_what_it_has_not():
    with pytest.raises(AttributeError, match=r"has no attribute 'no_such_name'.*Plan"):
        batchwright.no_such_name  # noqa: B018 - asking is the test


def test_the_type_checker_sees_the_names_that_a_program_gets():
    blocks = [node for node in tree_of(SOURCE / "__init__.py").body if isinstance(node, ast.If)]
    seen = {}
    for node in (node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)):
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            seen[alias.asname or alias.name] = (
                importlib.import_module(whole)
                if whole in sources()
                else getattr(importlib.import_module(node.module), alias.name)
            )
    assert seen.keys() <= set(batchwright.__all__)
    for name, value in seen.items():
        assert getattr(batchwright, name) is value, name


@pytest.mark.parametrize(
    "module", [name for name, path in sources().items() if path.name == "__init__.py" and name != "batchwright"]
)
def test_the_public_names_of_a_room_are_sorted_and_resolve(module):
    room = importlib.import_module(module)
    names = getattr(room, "__all__", [])
    assert list(names) in (sorted(set(names)), in_order(set(names)))
    assert all(hasattr(room, name) for name in names)
