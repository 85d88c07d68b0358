"""Every example runs as its reader would run it, and says what it promises."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def run(tmp_path: Path, *command: str, warnings: str = "error") -> str:
    """Standard output of a fresh Python process that finds the package where this one does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", warnings, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_stability_monitor_warns_before_the_change_that_spikes_and_not_before_the_other(tmp_path):
    told = run(tmp_path, str(EXAMPLES / "stability_monitor.py"))
    assert re.search(r"\d+ readings; at step \d+: headroom -?\d", told)
    small, large = (re.findall(rf"^lr {lr}: (.*)$", told, flags=re.MULTILINE) for lr in ("0.06", "1"))
    assert small[0].startswith("no warning: batch sharpness would be about")
    assert small[1].startswith("no spike")
    assert large[0].startswith("warned: lr 1 is likely to make the loss spike")
    assert large[1].startswith("the loss spiked")


def test_what_would_it_have_done_prints_the_decisions_of_three_controllers(tmp_path):
    told = run(tmp_path, str(EXAMPLES / "what_would_it_have_done.py"))
    assert [name for name in ("NoiseScale(", "NormTest(", "Schedule(") if name in told] == [
        "NoiseScale(",
        "NormTest(",
        "Schedule(",
    ]
    assert not list(tmp_path.iterdir())


def test_my_task_trains_to_its_target_on_the_command_line(tmp_path):
    task = f"{EXAMPLES / 'my_task.py'}:make_task"
    told = run(tmp_path, "-m", "batchwright", "train", task, "--out", "a", "--json")
    assert json.loads(told)["result"]["reason"] == "target"


@pytest.mark.parametrize(
    ("library", "name", "promise"),
    [
        ("lightning", "lightning_callback.py", r"21564 examples in (\d+) steps, where a batch of 32 takes (684); \d"),
        (
            "transformers",
            "transformers_callback.py",
            r"5120 examples in (\d+) optimizer steps, where a batch of 16 takes (320)",
        ),
        ("accelerate", "accelerate_loop.py", r"21564 examples in (\d+) steps, where a batch of 32 takes (684)"),
    ],
)
def test_a_framework_takes_fewer_steps_over_the_same_examples(library, name, promise, tmp_path):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed; `make integrations` installs it")
    told = run(tmp_path, str(EXAMPLES / name), warnings="default")
    found = re.search(promise, told)
    assert found is not None, told[-2000:]
    assert int(found[1]) < int(found[2])


def test_a_plain_policy_gradient_loop_follows_the_advice(tmp_path):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed; pip install 'batchwright[rl]'")
    told = run(tmp_path, str(EXAMPLES / "rl_batch_advice.py"))
    found = re.search(
        r"(\d+) episodes in batches of (\d+) to (\d+), where 6 batches of 64 take 384; mean return (\d+)", told
    )
    assert found is not None, told[-2000:]
    assert int(found[1]) < 384
    assert int(found[2]) < int(found[3])
    assert told.count("times the noise scale") + told.count("do not resolve") == 6


def test_stable_baselines3_takes_the_advice_as_n_steps(tmp_path):
    if find_spec("stable_baselines3") is None:
        pytest.skip("stable_baselines3 is not installed; `make bench` installs it")
    told = run(tmp_path, str(EXAMPLES / "rl_stable_baselines3.py"), warnings="default")
    found = re.search(r"(\d+) updates, n_steps from (\d+) to (\d+), changed (\d+) times", told)
    assert found is not None, told[-2000:]
    assert int(found[3]) > int(found[2])


def test_own_loop_grows_its_batch_and_says_why(tmp_path):
    told = run(tmp_path, str(EXAMPLES / "own_loop.py"))
    assert re.search(r"noise scale .* asks for .*; the batch grows from 32 to 64", told)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_has_a_test(path):
    tests = sorted(Path(__file__).parent.glob("test_examples*.py"))
    assert any(path.stem in file.read_text(encoding="utf-8") for file in tests)
