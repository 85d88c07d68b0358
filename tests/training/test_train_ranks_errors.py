"""What goes wrong on one rank ends all of them, soon, and each knows why; nobody waits for a rank that does not come."""

import os
import signal
import time

import pytest
import torch
from torch import nn

from batchwright.adapt import DiveBatch, InnerProductTest, SimiGrad, StabilityAware
from batchwright.core.errors import InputError, OutputError
from batchwright.core.records import RecordWriter, read_records
from batchwright.tasks.task import OptimizerSpec
from batchwright.training.group import Group, Processes, process_group
from batchwright.training.interrupt import Interrupt
from batchwright.training.loop import train

from .conftest import make_task
from .rank_helpers import Job, needs_ranks, on_ranks

pytestmark = needs_ranks


def bad_task(rank: int, kind: str):
    """A task that goes wrong in its third step on one rank."""
    calls = 0

    def loss(model: nn.Module, batch: tuple) -> torch.Tensor:
        nonlocal calls
        calls += model.training
        losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        if calls == 3 and rank == 1:
            if kind == "bug":
                raise KeyError("no such label")
            if kind == "scalar":
                return losses.mean()
            if kind == "nan":
                return losses * float("nan")
        return losses

    def metric(model: nn.Module, batch: tuple) -> torch.Tensor:
        if kind == "metric":
            raise InputError("accuracy must be a number, got none; mend it")
        return (model(batch[0]).argmax(1) == batch[1]).float()

    return make_task(loss=loss, target=None, metrics={"accuracy": metric})


def failures(folder, rank: int, kinds) -> dict[str, str]:
    found = {}
    for kind in kinds:
        options = {"max_examples": 320, "seed": rank if kind == "seed" else 0}
        if kind == "out" and rank == 0:
            (folder / kind).write_text("")
        write = RecordWriter.write
        if kind == "disk":

            def full(self, name, /, write=write, **fields):
                if name == "step" and fields["step"] == 3:
                    raise OutputError("--out must be a folder that can be written, got a full disk; choose another")
                write(self, name, **fields)

            RecordWriter.write = full
        try:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - of another kind on each rank
                train(bad_task(rank, kind), out=folder / kind, policy=None, **options)
        finally:
            RecordWriter.write = write
        found[kind] = f"{type(caught.value).__name__} {getattr(caught.value, 'exit_code', '')} {caught.value}"
    return found


def test_an_error_on_one_rank_is_told_to_all_and_ends_the_run(tmp_path):
    kinds = ("bug", "scalar", "nan", "metric", "seed", "out", "disk")
    started = time.monotonic()
    first, second = on_ranks(2, lambda rank: failures(tmp_path, rank, kinds), tmp_path / "results")
    assert time.monotonic() - started < 100
    # The rank that has the error raises it; the other says whose it is, with the same exit code.
    assert first["bug"] == "RankError 1 rank 1: KeyError: 'no such label'"
    assert second["bug"].startswith("KeyError")
    assert first["scalar"].startswith("RankError 2 rank 1: loss must return")
    assert second["scalar"].startswith("TaskError 2 loss must return")
    assert first["nan"].startswith("NonFiniteLossError 2 loss must stay finite, got nan at step 3")
    assert second["nan"].startswith("RankError 2 rank 0: loss must stay finite, got nan at step 3")
    assert first["metric"].startswith("InputError 2 accuracy must be a number")
    assert second["metric"].startswith("RankError 2 rank 0: accuracy must be a number")
    assert (
        first["seed"]
        == "RankError 2 rank 1: seed must be the same on all ranks, got 1 here and 0 on rank 0; give each the same"
    )
    assert first["out"].startswith("OutputError 2 --out must be a folder")
    assert second["out"].startswith("RankError 2 rank 0: --out must be a folder")
    assert first["disk"].startswith("OutputError 2")
    assert second["disk"].startswith("RankError 2 rank 0: --out must be a folder that can be written, got a full disk")
    (end,) = read_records(tmp_path / "bug").of_kind("end")
    assert (end["reason"], end["message"]) == ("failed", "rank 1: KeyError: 'no such label'")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_when_a_rank_is_gone_the_others_end_too(tmp_path, parallel):
    def job(rank: int) -> None:
        def vanish(progress) -> None:
            if progress.step == 4 and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        train(make_task(target=None), out=tmp_path / "run", max_examples=3200, on_progress=vanish, parallel=parallel)

    ended = Job(2, job, tmp_path / "results")
    assert ended.codes(limit_s=90) == [1, -signal.SIGKILL]
    assert "RankError: another rank ended before its time" in (tmp_path / "results" / "error-0").read_text()


def test_a_stop_asked_of_one_rank_stops_all_at_the_same_step(tmp_path):
    def job(rank: int) -> list:
        def ask(progress) -> None:
            if progress.step == 5 and rank == 1:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGTERM)  # as torchrun passes it on beside the terminal

        run = train(make_task(target=None), out=tmp_path / "run", max_examples=3200, on_progress=ask)
        return [run.reason, run.num_steps]

    assert on_ranks(2, job, tmp_path / "results") == [["interrupted", 6]] * 2
    assert [end["reason"] for end in read_records(tmp_path / "run").of_kind("end")] == ["interrupted"]


def test_a_second_signal_counts_only_after_a_while():
    with Interrupt(settle_s=60.0) as several:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert several.asked
    with Interrupt() as one:
        signal.raise_signal(signal.SIGINT)
        assert one.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ranks_settle_on_the_same_and_share_what_the_first_has(tmp_path):
    def job(rank: int) -> list:
        with process_group("cpu") as group:
            assert isinstance(group, Processes)
            settled = group.settle(asked=rank == 2, failed_size=[0, 7, 5][rank], missing=False)
            table = group.sum(torch.tensor([rank, 1]))
            values = [group.same({"rank": [rank, 0.1]}), group.agree([0.1 * (rank + 1)]), table.tolist()]
        with process_group("cpu") as group:  # a second one in the same process
            values.append(group.same(rank))
        assert not torch.distributed.is_initialized()
        return [settled.asked, settled.failed_size, settled.missing, *values]

    for found in on_ranks(3, job, tmp_path):
        assert found == [True, 5, False, {"rank": [0, 0.1]}, [0.1], [3, 3], 0]


def test_one_process_settles_with_itself():
    with process_group("cpu") as group:
        assert type(group) is Group
        assert group.settle(asked=True, failed_size=3).failed_size == 3
        with pytest.raises(KeyError, match="mine"), group.together():
            raise KeyError("mine")


def test_what_a_sharded_run_cannot_measure_is_refused_with_the_reason(tmp_path):
    task = make_task(target=None, model=lambda: nn.Linear(6, 2), optimizer=OptimizerSpec(lr=0.05, momentum=0.0))
    policies = (SimiGrad(), DiveBatch(), InnerProductTest(), StabilityAware(inner="fixed"))

    def job(rank: int) -> list:
        found = []
        for number, policy in enumerate(policies):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - of another kind on each rank
                train(task, out=tmp_path / str(number), policy=policy, parallel="fsdp", max_examples=320)
            found.append(f"{type(caught.value).__name__} {caught.value}")
        return found

    first, second = on_ranks(2, job, tmp_path / "results")
    words = ("cosine of two halves", "whole model on each rank", "whole model on each rank", "whole model on one rank")
    for mine, theirs, wanted in zip(first, second, words, strict=True):
        assert mine.startswith("InputError")
        assert wanted in mine
        assert theirs.startswith("RankError rank 0: ")
