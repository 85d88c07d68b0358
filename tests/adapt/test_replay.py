"""What a controller would have done, from a list of measurements and from the records of a real run."""

import math

import pytest

import batchwright as bw
from batchwright.adapt import AdaScale, Fixed, Geometric, Measured, NoiseScale, NormTest, Schedule, SimiGrad
from batchwright.adapt.replay import measured_of
from batchwright.core.errors import InputError, RecordError
from batchwright.core.records import RecordWriter, read_records
from batchwright.tasks.loading import load_task

OPTIONS = {"fraction": 1.0, "cooldown": 3, "hysteresis": 1.05, "max_batch_size": 256}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run on the bundled digits whose batch size follows the noise scale; noise is measured and recorded at each early step."""
    folder = tmp_path_factory.mktemp("replay") / "run"
    bw.train(
        load_task("digits-cnn"),
        out=folder,
        policy=NoiseScale(**OPTIONS),
        batch_size=16,
        noise_every=1,
        max_examples=6000,
        stop_at_target=False,
    )
    return folder


def test_the_recorded_decisions_come_out_again(run):
    recorded = read_records(run).of_kind("decision")
    assert len(recorded) >= 2
    found = bw.adapt.replay(run, NoiseScale(**OPTIONS)).changes
    dense = [line["step"] for line in recorded if line["step"] <= 50]  # later records are further apart
    assert dense
    for line, answer in zip(recorded[: len(dense)], found, strict=False):
        assert (answer.measured.step, answer.measured.batch_size, answer.decision.batch_size) == (
            line["step"],
            line["previous"],
            line["batch_size"],
        )
        assert answer.decision.reason == line["reason"]
    assert bw.adapt.dry_run(run, NoiseScale(**OPTIONS)).changes[: len(dense)] == found[: len(dense)]


def test_measurements_of_records_hold_what_was_recorded(run):
    records = read_records(run)
    found = measured_of(records)
    assert [now.step for now in found] == sorted({now.step for now in found})
    by_step = {now.step: now for now in found}
    for line in records.of_kind("noise"):
        now = by_step[line["step"]]
        assert now.trace == line["trace"]
        assert now.grad_sq_norm == line["grad_sq_norm"]
        assert now.noise_scale.low == line["noise_scale"]["low"]
    for line in records.of_kind("step"):
        now = by_step[line["step"]]
        assert (now.num_examples, now.batch_size, now.lr, now.loss) == (
            line["num_examples"],
            line["batch_size"],
            line["lr"],
            line["loss"],
        )


def test_another_controller_is_tried_on_the_same_run(run):
    assert bw.adapt.replay(run, Fixed()).changes == ()
    grown = bw.adapt.replay(run, Geometric(every=1000, max_batch_size=64))
    assert [answer.decision.batch_size for answer in grown.changes] == [32, 64]
    assert bw.adapt.replay(run, NormTest(cooldown=0)).answers[-1].decision.batch_size > 16
    gains = [answer.decision.lr_factor for answer in bw.adapt.dry_run(run, AdaScale(base_batch_size=16)).answers]
    assert all(1 <= gain <= 16 for gain in gains)
    assert max(gains) > 1.5


def test_what_was_never_measured_is_said(run):
    found = bw.adapt.replay(run, SimiGrad())
    assert found.missing == ("cosine",)
    assert found.changes == ()
    assert "never measured in this run, so never acted upon: cosine" in found.table()


def stream() -> list[Measured]:
    return [Measured(step=i, num_examples=32 * i, batch_size=32) for i in range(1, 101)]


def test_a_replay_carries_its_own_size_and_a_dry_run_does_not():
    controller = Schedule(schedule="1000:64")
    assert len(bw.adapt.replay(stream(), controller).changes) == 1
    asked = bw.adapt.dry_run(stream(), controller).changes
    assert len(asked) == sum(now.num_examples >= 1000 for now in stream())
    assert {answer.measured.batch_size for answer in asked} == {32}


def test_the_table_has_a_line_for_each_change():
    lines = bw.adapt.replay(stream(), Schedule(schedule="1000:64 2k:128")).table().splitlines()
    assert lines[0].split()[:3] == ["step", "examples", "recorded"]
    assert [line.split()[0] for line in lines[1:]] == ["32", "63"]
    assert "32 -> 64" in lines[1]
    assert "64 -> 128" in lines[2]
    assert bw.adapt.replay(stream(), Fixed()).table().endswith("nothing would have changed")
    assert len(bw.adapt.replay(stream(), Fixed()).table(every=True).splitlines()) == 101


def test_a_change_of_lr_counts_as_a_change():
    steps = [
        Measured(step=i, num_examples=64 * i, batch_size=64, trace=64.0 * min(i, 5), grad_sq_norm=1.0)
        for i in range(1, 20)
    ]
    found = bw.adapt.replay(steps, AdaScale(base_batch_size=16)).changes
    assert [answer.measured.step for answer in found] == [1, 2, 3, 4, 5]
    assert found[-1].decision.lr_factor == pytest.approx((320 / 16 + 1) / (320 / 64 + 1))


def test_what_cannot_be_replayed_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one step to replay"):
        bw.adapt.replay([], Fixed())
    with pytest.raises(RecordError, match="give the folder of a run"):
        bw.adapt.replay(tmp_path, Fixed())
    with RecordWriter(tmp_path) as records:
        records.write("plan", step=1)
    with pytest.raises(RecordError, match="must hold the start of a run"):
        bw.adapt.replay(tmp_path, Fixed())
    with RecordWriter(tmp_path) as records:
        records.write("start", batch_size=8)
        records.write("step", step=1)
    with pytest.raises(RecordError, match="cannot be read"):
        bw.adapt.replay(tmp_path, Fixed())


def test_infinite_ends_come_back_from_the_records(tmp_path):
    with RecordWriter(tmp_path) as records:
        records.write("start", batch_size=8, num_train=100)
        interval = {"value": math.inf, "low": 5.0, "high": math.inf, "level": 0.95}
        records.write("noise", step=1, num_examples=8, noise_scale=interval, trace=1.0, grad_sq_norm=-1.0)
    (found,) = measured_of(read_records(tmp_path))
    assert found.noise_scale.high == math.inf
    assert found.num_train == 100
