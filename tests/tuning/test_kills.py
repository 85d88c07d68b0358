"""Killed drivers and killed workers on spawned processes: no finished trial is lost or run again, and the end is the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests import tuning_functions as functions

import batchwright as bw
from batchwright.core.errors import InputError

SPACE = "x=0:1,rate=log:1e-3:1"
ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import sys
import batchwright as bw
from batchwright.core.errors import InputError
from tests import tuning_functions as functions
if __name__ == "__main__":
    bw.tune(functions.counted_bowl, "x=0:1,rate=log:1e-3:1", rounds=2, parallel=6, workers=1, seed=3, out=sys.argv[1])
"""


def kinds(folder: Path) -> list[str]:
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["kind"] for line in lines if line.endswith("}")]


def test_a_driver_killed_in_the_middle_of_a_round_loses_nothing(tmp_path, monkeypatch):
    count = tmp_path / "count"
    monkeypatch.setenv("TUNING_COUNT", str(count))
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    folder = tmp_path / "search"
    driver = subprocess.Popen([sys.executable, str(script), str(folder)], env=environment)
    limit = time.monotonic() + 250
    while kinds(folder).count("trial") < 8 and driver.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    ended = kinds(folder).count("trial")
    assert 8 <= ended < 12
    time.sleep(0.5)  # a trial that was being run ends with its worker
    before = len(count.read_text().splitlines())
    found = bw.tune(functions.counted_bowl, workers=1, out=folder, resume=True)
    assert len(count.read_text().splitlines()) - before == 12 - ended
    whole = bw.tune(functions.counted_bowl, SPACE, rounds=2, parallel=6, workers=1, seed=3)
    assert found.values == whole.values
    assert [trial.outcome.value for trial in found.trials] == [trial.outcome.value for trial in whole.trials]


def test_a_killed_worker_costs_an_attempt_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNING_COUNT", str(tmp_path / "count"))
    found = bw.tune(functions.deadly, SPACE, rounds=1, parallel=5, workers=1, seed=3)
    assert (tmp_path / "count.died").exists()
    assert found.counts == {"done": 5}
    assert sorted(trial.attempts for trial in found.trials) == [1, 1, 1, 1, 2]


def test_a_trial_that_kills_every_worker_fails_alone():
    found = bw.tune(functions.always_deadly, SPACE, rounds=1, parallel=5, workers=1, retries=1, seed=3)
    for trial in found.trials:
        if trial.values["x"] < 0.25:
            assert trial.outcome.status == "failed"
            assert trial.outcome.note == "lost 2 times: its worker was killed by SIGKILL"
        else:
            assert trial.outcome.status == "done"
    assert found.counts["failed"] >= 1


def test_a_trial_over_its_time_fails_and_says_so():
    with pytest.raises(InputError, match=r"2 failures; the first: TimeoutError: the trial took longer than 0\.5 s"):
        bw.tune(functions.sleepy, SPACE, rounds=1, parallel=2, workers=1, timeout_s=0.5)
