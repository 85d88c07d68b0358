"""Without any extra the main flow runs, and what needs one says which in one line."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# Modules of the extras, and what stands beside them in an environment of a developer.
IMPORTED_AS = {"pillow": "PIL"}
MODULES = sorted(
    {
        IMPORTED_AS.get(found := re.match(r"[\w-]+", name).group().replace("-", "_"), found)
        for key, names in EXTRAS.items()
        if key not in ("dev", "docs")
        for name in names
    }
    | {"beartype", "pytest", "pytorch_lightning"}
)
BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    others = list(sys.meta_path)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules}:
            return None
        found = (other.find_spec(name, path, target) for other in self.others)
        return next((spec for spec in found if spec is not None), None)

    def find_distributions(self, *arguments, **options):
        for other in self.others:
            yield from getattr(other, "find_distributions", lambda *_, **__: ())(*arguments, **options)

sys.meta_path[:] = [Absent()]
"""
NEEDS = {
    "images": "from batchwright.cli.app import run\nfrom pathlib import Path\nPath('a').mkdir()\nPath('a/b.png').write_bytes(b'x')\n"
    "raise SystemExit(run(['gan', './a', '--image-size', '8', '--out', 'x']))",
    "rl": "from batchwright.cli.app import run\nraise SystemExit(run(['rl', 'CartPole-v1', '--out', 'x']))",
    "lightning": "import batchwright as bw\nbw.integrations.BatchSizeCallback",
    "transformers": "import batchwright as bw\nbw.integrations.BatchSizeTrainerCallback",
    "tensorboard": "import batchwright as bw\nbw.integrations.TensorBoardStepSink('x')",
    "wandb": "import batchwright as bw\nbw.integrations.WandbSink()",
}
# Nothing needs them but what is told elsewhere: pictures of a study are left out, and `tune` has its own tests.
ASIDE = {"report", "tune", "dev", "docs"}


def python(code: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    program = BLOCK.format(modules=set(MODULES)) + code
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        timeout=280,
    )


def test_every_extra_is_asked_for():
    assert NEEDS.keys() | ASIDE == EXTRAS.keys()


@pytest.mark.parametrize("extra", NEEDS)
def test_a_missing_extra_is_one_line_that_names_it(extra, tmp_path):
    done = python(NEEDS[extra], tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"pip install 'batchwright[{extra}]'" in last, done.stderr[-1500:]
    if extra == "rl":
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.returncode == 2


def test_without_extras_plan_train_report_and_a_study_run(tmp_path):
    code = """
from batchwright.cli.app import run
assert run(["plan", "digits-mlp", "--budget-steps", "60", "--out", "runs/plan"]) == 0
assert run(["train", "digits-mlp", "--plan", "runs/plan", "--max-examples", "640", "--out", "runs/a"]) == 0
assert run(["report", "runs"]) == 0
assert run(["study", "eoss", "--only", "boundary", "--workers", "1", "--out", "runs/eoss"]) == 0
assert run(["doctor"]) == 0
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "report.html").exists()


def test_importing_the_package_loads_three_modules_of_its_own():
    """What it costs beyond torch: a count, which no busy machine changes."""
    code = "import sys, torch\nbefore = set(sys.modules)\nimport batchwright\nprint(*sorted(set(sys.modules) - before))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert [name for name in done.stdout.split() if name.startswith("batchwright")] == ["batchwright"]
    assert len(done.stdout.split()) <= 3, done.stdout


@pytest.mark.parametrize("module", ["batchwright.cli.app", "batchwright.report.page"])
def test_help_and_reports_start_without_torch(module):
    """Most of what a short command takes is the import of torch, which `--help` and a page need not have."""
    code = f"import sys, {module}\nprint([name for name in ('torch', 'scipy') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stdout.strip() == "[]"
