"""A method that is added by the line of its registry is found in the battery, on the command line and in the docs table.

The methods that are added here are those of the docs: the modules under "Adding a …" of their pages, enrolled and nothing else.
"""

import dataclasses
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import batchwright as bw
from batchwright.adapt import REGISTRY as CONTROLLERS
from batchwright.adapt import parse_policy
from batchwright.bandits import BPE
from batchwright.bandits import REGISTRY as BANDITS
from batchwright.cli.app import run
from batchwright.nn import REGISTRY as NORMS
from batchwright.studies import registry as studies
from batchwright.tasks import REGISTRY as TASKS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Where a page of the docs shows a whole module, the name that the module gets here, and what it is enrolled as.
SHOWN = {
    "added_controller": ("controllers.md", "## Adding a controller"),
    "added_norm": ("nn.md", "### Adding a target"),
    "added_study": ("studies/README.md", "## Adding a study"),
}
PLUGIN = '''"""Enrols what the docs show, before the tests are collected."""

import dataclasses

# First of all: the rules of the planning room are made from this table when that is imported.
from batchwright.tasks.optimizers import KINDS, OptimizerKind

KINDS["added-optimizer"] = OptimizerKind(class_name="NAdam", update="normalised", has_beta2=True)

import added_controller
import added_norm
import added_study

from batchwright.adapt import REGISTRY as CONTROLLERS
from batchwright.bandits import BPE
from batchwright.bandits import REGISTRY as BANDITS
from batchwright.nn import REGISTRY as NORMS
from batchwright.studies.registry import REGISTRY as STUDIES
from batchwright.tasks import REGISTRY as TASKS


class AddedBandit(BPE):
    """A bandit."""

    name = "added-bandit"


CONTROLLERS["added-controller"] = added_controller.LinearGrowth
NORMS["rms"] = added_norm.to_rms
STUDIES["added-study"] = dataclasses.replace(added_study.COIN, name="added-study")
BANDITS["added-bandit"] = AddedBandit
ENTRIES = {**TASKS, "added-task": dataclasses.replace(TASKS["digits-mlp"], name="added-task")}
TASKS.clear()
TASKS.update(sorted(ENTRIES.items()))
'''
# What runs over a registry, and the kind that it is for.
BATTERIES = {
    "tests/adapt/test_controllers.py": "added-controller",
    "tests/training/test_policies.py": "added-controller",
    "tests/nn/test_convert.py": "rms",
    "tests/studies/test_registry.py": "added-study",
    "tests/bandits/test_bandits.py": "added-bandit",
    "tests/optim/test_kinds.py": "added-optimizer",
    "tests/planning/test_batch_change.py": "added-optimizer",
    "tests/tasks/test_builtin_tasks.py": "added-task",
}


class AddedBandit(BPE):
    """A bandit that is in no paper."""

    name = "added-bandit"


def write_modules(folder: Path) -> None:
    """The modules that the docs show, and the plugin that enrols them."""
    for name, (page, heading) in SHOWN.items():
        section = (DOCS / page).read_text(encoding="utf-8").split(f"\n{heading}\n")[1]
        (folder / f"{name}.py").write_text(re.findall(r"```python\n(.*?)```", section, re.S)[0], encoding="utf-8")
    (folder / "added_plugin.py").write_text(PLUGIN, encoding="utf-8")


@pytest.fixture
def enrolled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_modules(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in SHOWN:
        monkeypatch.delitem(sys.modules, name, raising=False)
    controller, norm, study = (importlib.import_module(name) for name in SHOWN)
    monkeypatch.setitem(CONTROLLERS, "added-controller", controller.LinearGrowth)
    monkeypatch.setitem(NORMS, "rms", norm.to_rms)
    monkeypatch.setitem(BANDITS, "added-bandit", AddedBandit)
    task = dataclasses.replace(TASKS["digits-mlp"], name="added-task", description="a task that was added")
    monkeypatch.setitem(TASKS, "added-task", task)
    coin = dataclasses.replace(study.COIN, name="added-study")
    monkeypatch.setattr(studies, "REGISTRY", {**studies.REGISTRY, "added-study": coin})


def test_what_is_added_passes_the_battery_of_its_room_and_the_batteries_know_it(tmp_path):
    write_modules(tmp_path)
    # The page of a study is its fourth place, which the docs' example has not.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "added_plugin",
        "-p",
        "no:xdist",
        "-rA",
        "-k",
        "(added or rms) and not page",
    ]
    path = os.pathsep.join([str(ROOT / "src"), str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [*command, *BATTERIES], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    for battery, name in BATTERIES.items():
        assert re.search(rf"PASSED {battery}::\w+\[[^\]]*{name}", done.stdout), (battery, done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_a_controller_of_the_registry_is_on_the_command_line(enrolled, capsys, tmp_path):
    assert parse_policy("added-controller:50k").every == 50_000
    with pytest.raises(bw.core.errors.InputError, match="for instance 'added-controller:20k'"):
        parse_policy("added-controller")
    assert run(["train", "digits-mlp", "--policy", "nothing", "--out", str(tmp_path / "a")]) == 2
    assert "added-controller" in capsys.readouterr().err
    # It trains by this name, and the record says so.
    policy = ["--policy", "added-controller:64", "--max-examples", "256"]
    assert run(["train", "added-task", *policy, "--out", str(tmp_path / "b"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["label"] == "added-controller"
    assert result["batch_size"] > 32


def test_a_task_and_a_study_of_the_registry_are_on_the_command_line(enrolled, capsys, tmp_path):
    assert run(["tasks", "--json"]) == 0
    assert "added-task" in {task["name"] for task in json.loads(capsys.readouterr().out)["result"]["tasks"]}
    assert run(["study", "nothing"]) == 2
    assert "added-study" in capsys.readouterr().err
    quick = ["--workers", "1", "--out", str(tmp_path / "a")]
    assert run(["study", "added-study", *quick, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["result"]["studies"]["added-study"]["rows"]
    assert [row["verdict"] for row in rows] == ["holds", "holds"]


def test_a_bandit_of_the_registry_is_on_the_command_line(enrolled, capsys, tmp_path):
    told = ["tune", "digits-mlp", "--space", "lr=log:1e-3:1", "--out", str(tmp_path / "a")]
    assert run([*told, "--method", "nothing"]) == 2
    assert "added-bandit" in capsys.readouterr().err


def test_a_target_of_the_registry_is_known_to_convert(enrolled):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    done = bw.nn.convert(model, "rms")
    assert [change.names for change in done.changed] == [("1",)]
    x = 3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        model[1](x), x / (x.square().mean(0) + 1e-5).sqrt()
    )  # the oracle of the module of the docs
    with pytest.raises(bw.core.errors.InputError, match="rms"):
        bw.nn.convert(model, "nothing")


def test_what_is_added_is_in_the_docs_table(enrolled):
    spec = importlib.util.spec_from_file_location("docs_tables_again", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    # Of a controller what it is, and its options.
    places = {"controllers.md": ("`added-controller", 2), "nn.md": ("`rms`", 1)}
    places |= {"bandits.md": ("`AddedBandit`", 1), "studies/README.md": ("[added-study](added-study.md)", 1)}
    for page, (cell, number) in places.items():
        assert sum(line.startswith(f"| {cell}") for line in tables.TABLES[page]().splitlines()) == number, page
        assert cell not in (DOCS / page).read_text(encoding="utf-8")
    assert "`added-controller:20k` | Linear growth: add the same number" in tables.controllers()
    assert "Root mean square of the batch, no mean; evaluation by the running square | none" in tables.targets()


def test_the_table_of_systems_has_no_empty_cell_but_for_what_is_not_built():
    text = (
        (ROOT / "docs" / "systems.md").read_text(encoding="utf-8").partition("<!-- made")[2].partition("<!-- made")[0]
    )
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    head, cells = rows[0], rows[2:]
    assert len(cells) == 8
    assert all(len(row) == len(head) and all(row) for row in cells)
    open_cells = {
        (row[0].partition(" (")[0], name)
        for row in cells
        for name, cell in zip(head, row, strict=True)
        if cell == "not there yet"
    }
    # The commands of the design that are not on this branch yet, and the study that comes with one of them.
    assert open_cells <= {("MMD GAN", "command"), ("MMD GAN", "study"), ("Batched kernelized bandits", "command")}
