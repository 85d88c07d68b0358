"""Loading a task by name, from a file and from a module; every wrong spec is one clear line."""

import sys
from pathlib import Path

import pytest

from batchwright.core.errors import DataError, TaskError
from batchwright.tasks import Task, check_task, load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_task.py"
GOOD = """
import torch
from torch.utils.data import TensorDataset
from batchwright.tasks import Task

def make_task({arguments}):
    data = TensorDataset(torch.zeros(64, 3))
    return Task(name={name}, model=lambda: torch.nn.Linear(3, 1), loss=lambda m, b: m(b[0]).squeeze(1).square(), train=data)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if name.startswith("_batchwright_task_") or (file is not None and Path(file).is_relative_to(tmp_path)):
            del sys.modules[name]


def good(arguments: str = "", name: str = "'mine'") -> str:
    return GOOD.format(arguments=arguments, name=name)


def one_line(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value)


def test_the_example_loads_and_checks():
    path = list(sys.path)
    task = load_task(f"{EXAMPLE}:make_task")
    assert task.name == "my-task"
    check_task(task)
    assert sys.path == path


def test_a_file_is_loaded_with_and_without_its_function_named(folder):
    (folder / "a.py").write_text(good() + "\ndef other():\n    return make_task()\n")
    assert load_task("a.py").name == "mine"
    assert load_task("a.py:make_task").name == "mine"
    assert load_task(f"{folder}/a.py:other").name == "mine"


def test_a_file_may_import_its_siblings_and_the_path_is_left_alone(folder):
    (folder / "nested").mkdir()
    (folder / "nested" / "early_helper.py").write_text("NAME = 'early'\n")
    (folder / "nested" / "late_helper.py").write_text("NAME = 'late'\n")
    source = "from early_helper import NAME\n" + good(name="NAME + LATE")
    source = source.replace("    data =", "    from late_helper import NAME as LATE\n    data =")
    (folder / "nested" / "a.py").write_text(source)
    path = list(sys.path)
    assert load_task("nested/a.py:make_task").name == "earlylate"
    assert sys.path == path


def test_two_files_of_the_same_name_do_not_meet(folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "a.py").write_text(good(name=repr(name)))
    assert [load_task(f"{name}/a.py:make_task").name for name in ("one", "two", "one")] == ["one", "two", "one"]


def test_a_module_of_the_working_folder_is_loaded(folder):
    (folder / "mypackage_a").mkdir()
    (folder / "mypackage_a" / "jobs.py").write_text(good())
    path = list(sys.path)
    assert load_task("mypackage_a.jobs:make_task").name == "mine"
    assert sys.path == path


def test_a_function_that_asks_for_it_is_given_the_data_root(folder, monkeypatch):
    (folder / "a.py").write_text(good("*, data_root", "str(data_root)"))
    assert load_task("a.py:make_task", data_root=Path("/somewhere")).name == "/somewhere"
    assert load_task("a.py:make_task").name == "None"
    monkeypatch.setenv("BATCHWRIGHT_DATA", "/elsewhere")
    assert load_task("a.py:make_task").name == "/elsewhere"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "digits-mpl",
            r"task must be a built-in name, file.py:make_task or package.module:make_task, got 'digits-mpl'; "
            r"did you mean digits-mlp\?; built in are char-gpt, .*, uci-mlp",
        ),
        ("", "got ''; built in are"),
        ("uci-mpl:yacht", r"got 'uci-mpl:yacht'; did you mean uci-mlp\?"),
        ("uci-mlp:yatch", r"variant of uci-mlp must be one of adult, .*, yacht, got 'yatch'; did you mean yacht\?"),
        ("cifar-resnet:9", "variant of cifar-resnet must be one of 8, 8-group, 20, 20-group, got '9'"),
        ("digits-mlp:big", "task 'digits-mlp' has no variants, got 'big' after the colon; leave it out"),
        ("nowhere.py:make_task", "task file must be there, got 'nowhere.py', which is not a file"),
        ("nowhere.py", "task file must be there, got 'nowhere.py', which is not a file"),
        ("./notes.txt:make_task", "task file must be a Python file, got 'notes.txt'"),
        (
            "no_such_package_x.jobs:make_task",
            "there is no module 'no_such_package_x'; is its folder the working folder, or",
        ),
        ("json.nothing:make_task", "there is no module 'json.nothing'"),
    ],
)
def test_a_spec_that_names_nothing_says_so(folder, spec, message):
    (folder / "notes.txt").write_text("notes")
    with pytest.raises(TaskError, match=message) as error:
        load_task(spec)
    assert one_line(error)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", r"a.py must have a function def make_task\(\) -> batchwright.Task, got no function at all$"),
        ("def make_tsk(): pass\ndef loss(): pass\n", r"got only loss, make_tsk; did you mean make_tsk\?$"),
        ("make_task = 3\n", r"make_task in a.py must be a function, def make_task\(\) -> batchwright.Task, got int"),
        (
            "def make_task(size, data_root): pass\n",
            "must take no argument, or data_root alone, got size; give the others a default",
        ),
        ("def make_task(data_root, /): pass\n", "must take no argument, or data_root alone, got data_root"),
        (
            "def make_task():\n    pass\n",
            r"must return a batchwright.Task, got NoneType; end make_task with `return batchwright.Task\(...\)`",
        ),
        ("def make_task():\n    return {}\n", "make_task in a.py must return a batchwright.Task, got dict$"),
        (
            "def make_task():\n    x = 1\n    return x / 0\n",
            r"make_task in a.py must make a task, got ZeroDivisionError: division by zero \(line 3 of a.py\)$",
        ),
        (
            "import json\n\ndef make_task():\n    return json.loads('{')\n",
            r"got JSONDecodeError: .* \(line 4 of a.py\)$",
        ),
        (
            "def make_task():\n    raise ValueError('a\\n  b' + 'c' * 999)\n",
            r"got ValueError: a bc{200,}… \(line 2 of a.py\)$",
        ),
        ("import sys\nsys.exit(3)\n", r"a.py must import without an error, got SystemExit: 3 \(line 2 of a.py\)$"),
        ("def make_task(:\n", r"a.py must import without an error, got SyntaxError: .* \(line 1 of a.py\)$"),
        (
            "\nimport no_such_package_x\n",
            r"got ModuleNotFoundError: No module named 'no_such_package_x' \(line 2 of a.py\)$",
        ),
    ],
)
def test_a_file_that_makes_no_task_says_why_and_where(folder, source, message):
    (folder / "a.py").write_text(source)
    with pytest.raises(TaskError, match=message) as error:
        load_task("a.py:make_task")
    assert one_line(error)
    assert not any(str(folder) == entry for entry in sys.path)


def test_an_error_of_the_task_itself_names_the_users_line(folder):
    (folder / "a.py").write_text(good().replace("name='mine'", "name='mine', batch_size=100"))
    with pytest.raises(TaskError, match=r"got TaskError: batch_size must be at most .* 100 for 64 \(line 8 of a.py\)$"):
        load_task("a.py:make_task")


def test_a_module_that_fails_on_import_says_why_and_where(folder):
    (folder / "broken_module_x.py").write_text("a = 1\nb = a.c\n")
    with pytest.raises(
        TaskError, match=r"module broken_module_x must import .* got AttributeError: .* \(line 2 of broken_"
    ):
        load_task("broken_module_x:make_task")
    (folder / "needs_module_x.py").write_text("import no_such_package_x\n")
    with pytest.raises(
        TaskError, match=r"module needs_module_x must import .* No module named 'no_such_package_x' \(line 1 of"
    ):
        load_task("needs_module_x:make_task")


def test_a_built_in_task_without_its_data_says_how_to_name_it(folder):
    with pytest.raises(DataError, match="got neither --data-root nor BATCHWRIGHT_DATA"):
        load_task("mnist-cnn")


def test_a_built_in_name_stands_before_a_module_or_file_of_that_name(folder):
    assert isinstance(load_task("digits-mlp"), Task)
