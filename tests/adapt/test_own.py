"""A policy of the user's own: from a file on the command line, in `train`, its records, and a resume."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.adapt import own
from batchwright.adapt.options import parse_policy
from batchwright.cli.app import run as main
from batchwright.core.errors import InputError
from batchwright.core.records import read_records
from batchwright.tasks.loading import load_task

PAGE = Path(__file__).parents[2] / "docs" / "controllers.md"
# The page's own example, so that what it says is what runs.
EXAMPLE = PAGE.read_text().split("## A policy of your own")[1].split("```python")[1].split("```")[0]
POLICY = (
    EXAMPLE
    + """

class NotADataclass:
    needs, init, update = frozenset(), None, None


class NoPolicy:
    pass
"""
)
TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw


def make_task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 4, generator=generator)
    data = TensorDataset(x, x.sum(1))
    return bw.Task(name="own", model=lambda: nn.Linear(4, 1), loss=lambda m, b: (m(b[0]).squeeze(1) - b[1]).square(), train=data,
                   evaluation=data, optimizer=bw.OptimizerSpec(name="sgd", lr=0.01), batch_size=8)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "grow.py").write_text(POLICY)
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "_SHOWN", {})
    return tmp_path


def decisions(out: Path) -> list[tuple[int, int]]:
    return [(each["step"], each["batch_size"]) for each in read_records(out).of_kind("decision")]


def test_the_command_line_takes_a_class_from_a_file_and_the_records_hold_its_decisions(folder: Path) -> None:
    arguments = [
        "train",
        "task.py",
        "--policy",
        "grow.py:Doubling",
        "--policy-option",
        "every=5",
        "--max-examples",
        "2048",
    ]
    assert main([*arguments, "--out", "runs/a"]) == 0
    records = read_records(folder / "runs/a")
    start = records.of_kind("start")[0]
    assert start["policy"] == "grow:Doubling"
    assert start["settings"]["policy_options"] == {"every": 5, "max_batch_size": 64}
    assert str(folder) not in json.dumps(start)
    # 5 steps of 8 examples, then of 16, 32 and 64
    assert [(step, size) for step, size in decisions(folder / "runs/a")] == [(5, 16), (10, 32), (15, 64)]
    assert main(["report", "runs"]) == 0
    assert "grow:Doubling" in (folder / "runs/report.html").read_text()


def test_a_resume_wants_the_class_again_and_imports_nothing_that_a_folder_names(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = folder / "runs/whole", folder / "runs/cut"
    policy = parse_policy("grow.py:Doubling")
    task = load_task("task.py")
    whole_run = bw.train(task, policy=policy, out=whole, max_examples=2048)
    seen = 0

    def stop(_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bw.train(task, policy=policy, out=cut, max_examples=2048, checkpoint_every=4, on_progress=stop)
    monkeypatch.setattr(own, "_SHOWN", {})  # as another process
    sys.modules.pop("grow", None)
    assert main(["train", "task.py", "--resume", "--out", str(cut)]) == 2
    assert "--policy FILE.py:Doubling" in capsys.readouterr().err
    assert "grow" not in sys.modules
    assert main(["train", "task.py", "--resume", "--policy", "grow.py:Doubling", "--out", str(cut)]) == 0
    told = capsys.readouterr()
    assert "is not used" not in told.out + told.err  # it had to be given, and it is
    assert decisions(cut) == decisions(whole)
    assert read_records(cut).of_kind("end")[-1]["step"] == whole_run.num_steps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothere.py:Doubling", "'nothere.py', which is not a file"),
        ("grow.py:Dubling", "only Doubling"),
        ("grow.py", "name it as file.py:MyPolicy"),
        ("grow.py:NoPolicy", "must have init, needs and update"),
        ("grow.py:NotADataclass", "must be a frozen dataclass"),
        ("no_such_module:Doubling", "there is no module 'no_such_module'"),
        ("grwo", "or file.py:MyPolicy"),
        ("noise-scal:3", "or file.py:MyPolicy"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(folder: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as found:
        parse_policy(text)
    assert says in str(found.value)


def test_an_importable_module_goes_too_and_an_option_it_lacks_is_refused(folder: Path) -> None:
    policy = parse_policy("grow:Doubling", ["every=3"])
    assert policy.every == 3  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="every, max_batch_size"):
        parse_policy("grow:Doubling", ["often=3"])


def test_a_registered_name_with_a_value_is_still_a_registered_one() -> None:
    assert isinstance(parse_policy("schedule:0:64 50k:128"), bw.adapt.Schedule)


@dataclass(frozen=True, kw_only=True)
class Wanting:
    """Needs what nothing measures."""

    options: Any = None

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"temper"}) if self.options is None else frozenset()

    def init(self, *, batch_size: int) -> dict[str, Any]:
        return {}

    def update(self, state: dict[str, Any], measured: bw.adapt.Measured) -> tuple[dict[str, Any], bw.adapt.Decision]:
        return state, bw.adapt.Decision(batch_size=measured.batch_size, changed=False, reason="no")


def test_needs_and_options_that_cannot_be_are_refused(tmp_path: Path) -> None:
    data = TensorDataset(torch.zeros(64, 2))
    task = bw.Task(
        name="t",
        model=lambda: nn.Linear(2, 1),
        loss=lambda m, b: m(b[0]).squeeze(1),
        train=data,
        evaluation=data,
        optimizer=bw.OptimizerSpec(name="sgd", lr=0.01),
        batch_size=8,
    )
    with pytest.raises(InputError, match="got temper"):
        bw.train(task, policy=Wanting(), out=tmp_path / "a")
    with pytest.raises(InputError, match="JSON cannot hold"):
        bw.train(task, policy=Wanting(options={1, 2}), out=tmp_path / "b")
