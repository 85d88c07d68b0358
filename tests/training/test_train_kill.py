"""A run killed at any instant goes on as the run that never was: bit by bit, with each example once an epoch.

The command is killed by SIGKILL at random instants and at chosen ones: while it writes a checkpoint, while it changes the batch size,
and one of two ranks alone.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn
from torch.utils.data import Dataset

import batchwright.tasks.loading
import batchwright.training.checkpoint as checkpoint_module
from batchwright.cli.app import run
from batchwright.core.records import RecordWriter, read_records
from batchwright.tasks.task import OptimizerSpec
from batchwright.training.follow import Follower
from batchwright.training.settings import holds_run

from .conftest import make_task
from .rank_helpers import Job, needs_ranks

pytestmark = needs_ranks
NUM_TRAIN, MAX_EXAMPLES = 160, 1600


class Noted(Dataset):
    """Writes down which examples were taken in which step, by each rank in a file of its own: the only witness of the test."""

    def __init__(self, data: Dataset, folder: Path) -> None:
        self.data, self.folder = data, folder
        self.step: int | None = None

    def __len__(self) -> int:
        return NUM_TRAIN

    def __getitem__(self, index: int):
        return self.data[index]

    def __getitems__(self, indices: list[int]):
        if self.step is None:  # where this process goes on stands in the records, before the first batch
            lines = (self.folder / "records.jsonl").read_text().splitlines()
            starts = [line for line in map(parsed, lines) if line.get("kind") in ("start", "resume")]
            self.step = max(starts[-1].get("step", 0), 0)
        self.step += 1
        with (self.folder / f"taken-{os.environ.get('RANK', 0)}").open("a") as file:
            file.write(json.dumps([self.step, indices]) + "\n")
        return [self.data[index] for index in indices]


def parsed(line: str) -> dict:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def noted_task(folder: Path):
    model = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)
    )
    plain = make_task()
    return make_task(
        model=model,
        train=Noted(plain.train, folder),
        target=None,
        optimizer=OptimizerSpec(name="adamw", lr=0.01, weight_decay=0.01),
    )


def command(folder: Path, num_ranks: int, before: Callable[[], None] = lambda: None) -> Callable[[int], int]:
    """``batchwright train`` as a rank runs it, going on where there is something to go on from."""

    def job(rank: int) -> int:
        before()
        batchwright.tasks.loading.load_task = lambda name, data_root=None: noted_task(folder)
        batchwright.tasks.loading.check_task = lambda task: None
        arguments = ["train", "noted", "--out", str(folder), "--policy", "noise-scale", "--device", "cpu"]
        arguments += ["--policy-option", "cooldown=4", "--policy-option", "fraction=1", "--max-batch-size", "64"]
        arguments += ["--batch-size", "8", "--checkpoint-every", "3", "--max-examples", str(MAX_EXAMPLES), "--json"]
        code = run([*arguments, "--resume"] if holds_run(folder) else arguments)
        assert code == 0, code
        return code

    return job


def attempt(folder: Path, num_ranks: int, where: Path, *, before: Callable[[], None] = lambda: None) -> Job:
    return Job(num_ranks, command(folder, num_ranks, before), where)


def finish(folder: Path, num_ranks: int, where: Path) -> None:
    assert set(attempt(folder, num_ranks, where).results()) == {0}


def same_run(cut: Path, whole: Path, num_ranks: int) -> None:
    """The last checkpoints are the same bytes, the records agree, and each epoch holds each example once."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert newest(cut, name).read_bytes() == newest(whole, name).read_bytes()
    states = [json.loads(newest(folder, "state.json").read_text()) for folder in (whole, cut)]
    for state in states:
        del state["progress"]["state"]["train_s"], state["progress"]["state"]["before"]
    assert states[0]["progress"] == states[1]["progress"]
    for kind, fields in (("step", ("step", "loss", "lr", "batch_size")), ("decision", ("step", "batch_size", "lr"))):
        lines = [[[line[field] for field in fields] for line in read_records(f).of_kind(kind)] for f in (whole, cut)]
        assert lines[0] == lines[1]
    assert read_records(cut).of_kind("decision")
    taken = [used(folder, num_ranks) for folder in (whole, cut)]
    assert taken[0] == taken[1]
    in_order = [index for part in taken[1] for index in part]
    assert len(in_order) >= MAX_EXAMPLES
    for start in range(0, len(in_order) - NUM_TRAIN + 1, NUM_TRAIN):
        assert sorted(in_order[start : start + NUM_TRAIN]) == list(range(NUM_TRAIN))


def used(folder: Path, num_ranks: int) -> list[list[int]]:
    """The examples of each step in order; of a step that was made again after a kill, those of the last time."""
    steps: dict[int, dict[int, list[int]]] = {}
    for rank in range(num_ranks):
        for line in map(parsed, (folder / f"taken-{rank}").read_text().splitlines()):
            if line:
                steps.setdefault(line[0], {})[rank] = line[1]
    assert sorted(steps) == list(range(1, len(steps) + 1))
    return [[index for rank in range(num_ranks) for index in steps[step][rank]] for step in sorted(steps)]


def newest(folder: Path, name: str) -> Path:
    return sorted((folder / "checkpoints").glob("step-*"))[-1] / name


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(place: str, number: int) -> Callable[[], None]:
    """Patch a forked process so that it dies at the ``number``-th passage of a place."""

    def wrapped(owner, name: str, *, after: bool = False, wanted: Callable[..., bool] = lambda *a, **k: True) -> None:
        original, passed = getattr(owner, name), 0

        def dies(*arguments, **named):
            nonlocal passed
            passed += bool(wanted(*arguments, **named))
            if passed == number and not after:
                die()
            result = original(*arguments, **named)
            if passed == number:
                die()
            return result

        setattr(owner, name, dies)

    def patch() -> None:
        if int(os.environ.get("RANK", 0)) > 0:
            return
        if place == "model file":
            wrapped(checkpoint_module, "save_file", after=True)
        elif place == "half of a file":
            original, passed = checkpoint_module.save_file, 0

            def torn(tensors, path):
                nonlocal passed
                passed += 1
                original(tensors, path)
                if passed == number:
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                    die()

            checkpoint_module.save_file = torn
        elif place == "before it appears":
            wrapped(Path, "rename")
        elif place == "after it appeared":
            wrapped(Path, "rename", after=True)
        elif place == "dropping old ones":
            wrapped(checkpoint_module.shutil, "rmtree", wanted=lambda path, **named: "step-" in str(path))
        elif place == "batch-size change":
            wrapped(Follower, "change_batch_size")
        elif place == "batch size half changed":
            wrapped(Follower, "change_batch_size", after=True)
        elif place == "record of a change":
            wrapped(RecordWriter, "write", after=True, wanted=lambda self, kind, **fields: kind == "decision")
        else:
            raise AssertionError(place)

    return patch


PLACES = (
    "model file",
    "half of a file",
    "before it appears",
    "after it appeared",
    "dropping old ones",
    "batch-size change",
    "batch size half changed",
    "record of a change",
)


def killed_at(folder: Path, place: str, number: int, num_ranks: int, where: Path) -> bool:
    """Whether the run met its kill; of two ranks the first dies, and the second must end by itself."""
    codes = attempt(folder, num_ranks, where, before=kill_at(place, number)).codes(limit_s=400)
    assert codes[0] == -signal.SIGKILL or set(codes) == {0}, codes
    return codes[0] == -signal.SIGKILL


def killed_after(folder: Path, seconds: float, num_ranks: int, victim: int | None, where: Path) -> bool:
    """Whether the run met its kill at an instant; all ranks, or one alone."""
    job = attempt(folder, num_ranks, where)
    time.sleep(seconds)
    for rank in range(num_ranks) if victim is None else [victim]:
        job.kill(rank)
    # Where a rank dies before the ranks have found each other, it is the launcher that ends the others.
    return -signal.SIGKILL in job.codes(launcher=True)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory) -> dict[int, tuple[Path, float]]:
    """Runs that were never killed, and the seconds that they took, by the number of ranks."""
    found = {}
    for num_ranks in (1, 2):
        folder = tmp_path_factory.mktemp(f"whole-{num_ranks}")
        start = time.monotonic()
        finish(folder / "run", num_ranks, folder / "results")
        found[num_ranks] = (folder / "run", time.monotonic() - start)
    return found


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_killed_in_a_checkpoint_and_in_a_change_of_batch_size(tmp_path, wholes, num_ranks):
    places = PLACES if num_ranks == 1 else ("half of a file",)
    folder, kills = tmp_path / "run", 0
    for number, place in enumerate(places):
        kills += killed_at(folder, place, 3 if "change" not in place else 1, num_ranks, tmp_path / f"kill-{number}")
    assert kills >= min(len(places), 6)  # the last places may lie behind the run's last change of batch size
    finish(folder, num_ranks, tmp_path / "end")
    same_run(folder, wholes[num_ranks][0], num_ranks)


def test_one_of_two_ranks_killed_alone(tmp_path, wholes):
    folder, victim = tmp_path / "run", 1
    met = killed_after(folder, 0.5 * wholes[2][1], 2, victim, tmp_path / "kill")
    finish(folder, 2, tmp_path / "end")
    same_run(folder, wholes[2][0], 2)
    assert met or not read_records(folder).of_kind("resume")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_instants(tmp_path, wholes):
    """32 kills of one process, 8 of them at chosen places, and 18 of two ranks: 2 at chosen places, half of the rest one rank alone."""
    rng, runs = random.Random(0), {}
    for num_ranks, wanted in ((1, 32), (2, 18)):
        part = wholes[num_ranks][1]
        places = list(PLACES if num_ranks == 1 else ("half of a file", "batch size half changed"))
        met = tries = runs[num_ranks] = 0
        while met < wanted:
            # A run that came to its end between two kills is compared, and another begins.
            folder = tmp_path / f"run-{num_ranks}-{runs[num_ranks]}"
            killed = True
            while met < wanted and killed:
                where = tmp_path / f"kill-{num_ranks}-{tries}"
                if places and tries % 3 == 0:
                    killed = killed_at(folder, places.pop(0), rng.choice((1, 2)), num_ranks, where)
                else:
                    victim = (0, 1, None, None)[tries % 4] if num_ranks == 2 else None
                    killed = killed_after(folder, rng.uniform(0.0, 0.3 * part), num_ranks, victim, where)
                met, tries = met + killed, tries + 1
            finish(folder, num_ranks, tmp_path / f"end-{num_ranks}-{runs[num_ranks]}")
            same_run(folder, wholes[num_ranks][0], num_ranks)
            runs[num_ranks] += 1
        print(f"{num_ranks} ranks: {met} kills met in {tries} tries, {runs[num_ranks]} runs")  # noqa: T201 - for -s
