"""Records survive a kill at any byte, a full disk and a folder that cannot be written, and damage is named."""

import errno
import json
import os
import random
from pathlib import Path

import pytest

from batchwright.core.errors import OutputError, RecordError
from batchwright.core.records import (
    RECORDS_NAME,
    SCHEMA,
    RecordWriter,
    make_folder,
    read_json,
    read_records,
    write_atomically,
    write_json,
)
from batchwright.core.statistics import Interval


def write_run(folder: Path, num_steps: int = 4) -> Path:
    """A run of a start and some steps; returns its file."""
    with RecordWriter(folder) as records:
        records.write("start", task="digits", seed=0)
        for step in range(1, num_steps + 1):
            records.write("step", step=step, loss=1.0 / step, note="naïve – ünïcode")
    return folder / RECORDS_NAME


def steps_of(folder: Path) -> list[int]:
    return [line["step"] for line in read_records(folder).of_kind("step")]


def resume(folder: Path, done: int, *steps: int) -> None:
    with RecordWriter(folder) as records:
        records.write("resume", step=done, num_examples=32 * done)
        for step in steps:
            records.write("step", step=step, loss=-1.0)


def assert_no_debris(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


# Reading and writing


def test_what_is_written_is_read_in_order_with_kind_and_schema(tmp_path):
    with RecordWriter(tmp_path / "deep" / "run") as records:
        records.write("start", task="digits", target=None)
        records.write("noise", step=1, noise_scale=Interval(value=3.0, low=1.0, high=float("inf")))
        records.sync()
    found = read_records(tmp_path / "deep" / "run")
    assert found.num_torn == 0
    assert found.lines == (
        {"kind": "start", "schema": SCHEMA, "task": "digits", "target": None},
        {
            "kind": "noise",
            "schema": SCHEMA,
            "step": 1,
            "noise_scale": {"value": 3.0, "low": 1.0, "high": "inf", "level": 0.95},
        },
    )
    assert found.of_kind("noise") == [found.lines[1]]
    assert found.of_kind("step") == []


def test_a_line_is_with_the_system_as_soon_as_it_is_written(tmp_path):
    with RecordWriter(tmp_path) as records:
        for step in range(3):
            records.write("step", step=step)
            assert steps_of(tmp_path) == list(range(step + 1))


def test_non_finite_numbers_are_strings_of_strict_json(tmp_path):
    with RecordWriter(tmp_path) as records:
        records.write("step", step=1, losses=[float("nan"), float("inf"), -float("inf"), 0.5])
    line = (tmp_path / RECORDS_NAME).read_text()
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read_records(tmp_path).lines[0]["losses"] == ["nan", "inf", "-inf", 0.5]


def test_line_breaks_inside_a_text_do_not_break_the_line(tmp_path):
    text = "one\ntwo\r\nthree\u2028four\x85five"
    with RecordWriter(tmp_path) as records:
        records.write("end", step=1, message=text)
    assert read_records(tmp_path).lines[0]["message"] == text


# A kill at any instant


def test_a_kill_at_any_byte_of_the_last_line_loses_at_most_that_line(tmp_path):
    path = write_run(tmp_path)
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for cut in range(start, len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = cut >= len(whole) - 1  # only the newline may be missing
        found = read_records(tmp_path)
        assert [line["step"] for line in found.of_kind("step")] == [1, 2, 3, 4][: 4 if complete else 3]
        assert found.num_torn == (0 if complete or cut == start else 1)


def test_a_run_resumed_after_a_kill_at_any_byte_reads_as_one_without_a_kill(tmp_path):
    path = write_run(tmp_path)
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for cut in range(start, len(whole) + 1):
        path.write_bytes(whole[:cut])
        resume(tmp_path, 2, 3, 4, 5)
        assert steps_of(tmp_path) == [1, 2, 3, 4, 5]
        assert path.read_bytes().startswith(whole[:cut])  # what was written is never written again


def test_random_kills_and_resumes_always_read_as_one_run(tmp_path):
    """A run is killed at a random byte of what it wrote since its last checkpoint, many times over."""
    rng = random.Random(0)
    for trial in range(60):
        folder = tmp_path / str(trial)
        path, done, safe = folder / RECORDS_NAME, 0, 0
        for attempt in range(rng.randint(2, 5)):
            with RecordWriter(folder) as records:
                records.write("start" if attempt == 0 else "resume", step=done)
                records.sync()
                safe = path.stat().st_size
                checkpoint = done
                for step in range(done + 1, done + 1 + rng.randint(1, 4)):
                    records.write("step", step=step, loss=rng.random())
                    if rng.random() < 0.4:
                        checkpoint, safe = step, path.stat().st_size
            os.truncate(path, rng.randint(safe, path.stat().st_size))
            done = checkpoint
        resume(folder, done, *range(done + 1, done + 3))
        assert steps_of(folder) == list(range(1, done + 3))


def test_a_file_cut_anywhere_is_read_or_refused_but_never_crashes(tmp_path):
    path = write_run(tmp_path)
    whole = path.read_bytes()
    first = whole.index(b"\n")
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if cut < first:
            with pytest.raises(RecordError, match="must hold at least one record, got none that can be read"):
                read_records(tmp_path)
        else:
            assert steps_of(tmp_path) == list(range(1, whole[:cut].count(b"}")))


def test_a_line_torn_inside_a_character_is_dropped(tmp_path):
    path = write_run(tmp_path)
    with path.open("ab") as file:
        file.write('{"kind": "step", "schema": 1, "note": "ü'.encode()[:-1])
    assert read_records(tmp_path).num_torn == 1


def test_two_resumes_that_were_torn_at_once_are_survived(tmp_path):
    path = write_run(tmp_path)
    for torn in ('{"kind": "st', '{"kind": "res'):
        with path.open("a") as file:
            file.write(torn + "\n")
    resume(tmp_path, 4, 5)
    found = read_records(tmp_path)
    assert found.num_torn == 2
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5]


# Resume


def test_steps_done_again_after_a_resume_count_once_and_the_later_stay(tmp_path):
    write_run(tmp_path)
    resume(tmp_path, 2, 3, 4)
    found = read_records(tmp_path)
    assert [line["loss"] for line in found.of_kind("step")] == [1.0, 0.5, -1.0, -1.0]
    assert [line["kind"] for line in found.lines] == ["start", "step", "step", "resume", "step", "step"]


def test_a_second_resume_before_the_first_drops_what_the_first_did(tmp_path):
    write_run(tmp_path)
    resume(tmp_path, 3, 4, 5, 6)
    resume(tmp_path, 1, 2)
    assert steps_of(tmp_path) == [1, 2]


def test_a_resume_drops_the_end_of_the_earlier_part(tmp_path):
    with RecordWriter(tmp_path) as records:
        records.write("start", seed=0)
        records.write("step", step=1)
        records.write("end", step=1, reason="interrupted")
    resume(tmp_path, 1, 2)
    assert [line["kind"] for line in read_records(tmp_path).lines] == ["start", "step", "resume", "step"]


def test_a_run_that_begins_again_keeps_nothing(tmp_path):
    write_run(tmp_path)
    with RecordWriter(tmp_path) as records:
        records.write("resume", step=-1, num_examples=0)
        records.write("start", seed=7)
        records.write("step", step=1)
    found = read_records(tmp_path)
    assert [line["kind"] for line in found.lines] == ["resume", "start", "step"]
    assert found.of_kind("start")[0]["seed"] == 7


def test_a_resume_that_does_not_say_where_raises(tmp_path):
    write_run(tmp_path)
    with RecordWriter(tmp_path) as records:
        records.write("resume", num_examples=3)
    with pytest.raises(RecordError, match="must say where a resume goes on, got step None in line 6"):
        read_records(tmp_path)


# Damage


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize(
    "damage",
    [
        "{torn",
        "",
        "[1, 2]",
        '"text"',
        "{}",
        '{"kind": "step"}',
        '{"schema": 1}',
        '{"kind": "step", "schema": "1"}',
        "9" * 5000,
    ],
)
def test_damage_in_the_middle_is_named_by_its_line(tmp_path, number, damage):
    path = write_run(tmp_path)
    lines = path.read_text().splitlines()
    lines[number - 1] = damage or " "
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match=f"must hold one JSON object a line, got damage in line {number}; restore"):
        read_records(tmp_path)


def test_damage_before_a_resumed_part_is_still_named(tmp_path):
    path = write_run(tmp_path)
    resume(tmp_path, 4, 5)
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:-3]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match="got damage in line 2"):
        read_records(tmp_path)


def test_a_newer_schema_is_refused(tmp_path):
    path = write_run(tmp_path)
    with path.open("a") as file:
        file.write(json.dumps({"kind": "step", "schema": SCHEMA + 1}) + "\n")
    with pytest.raises(RecordError, match=f"must be of schema {SCHEMA} or older, got {SCHEMA + 1}; update batchwright"):
        read_records(tmp_path)


def test_a_folder_without_records_raises(tmp_path):
    with pytest.raises(
        RecordError, match=r"must hold records.jsonl, got No such file or directory; give the folder of a run"
    ):
        read_records(tmp_path)
    (tmp_path / RECORDS_NAME).touch()
    with pytest.raises(RecordError, match="must hold at least one record"):
        read_records(tmp_path)


# A place that cannot be written


def test_a_path_below_a_file_raises(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            OutputError, match=r"--out must be a folder that can be written, got .*file.*; choose another"
        ):
            RecordWriter(place)
    with pytest.raises(OutputError, match="--out must be a folder"):
        write_json(tmp_path / "file" / "plan.json", {})


def test_a_read_only_folder_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a test run by root may write anywhere
    with pytest.raises(OutputError, match=r"got .* \(no permission\); choose another"):
        make_folder(tmp_path / "run")


def test_records_that_cannot_be_opened_raise(tmp_path):
    (tmp_path / RECORDS_NAME).mkdir()
    with pytest.raises(OutputError, match="--out must be a folder that can be written"):
        RecordWriter(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_raises_when_a_record_is_written(tmp_path):
    (tmp_path / RECORDS_NAME).symlink_to("/dev/full")
    records = RecordWriter(tmp_path)
    with pytest.raises(OutputError, match="No space left on device"):
        records.write("start", seed=0)
    with pytest.raises(OutputError, match="No space left on device"):
        records.close()  # the line is still in the buffer
    records.close()


def test_a_full_disk_raises_when_records_are_made_sure(tmp_path, monkeypatch):
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RecordWriter(tmp_path) as records:
        records.write("start", seed=0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(OutputError, match=r"No space left on device.*; choose another") as info:
                records.sync()
        assert isinstance(info.value.__cause__, OSError)
        records.write("step", step=1)
    assert steps_of(tmp_path) == [1]


# Whole files


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "plan.json"
    for text in ("first\n", "second – ü\n"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert_no_debris(tmp_path, "plan.json")
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "plan.json"
    write_atomically(path, "old")

    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert_no_debris(tmp_path, "plan.json")


def test_a_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = tmp_path / "plan.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert_no_debris(tmp_path, "plan.json")


def test_json_goes_to_disk_and_back(tmp_path):
    write_json(tmp_path / "a.json", {"x": float("inf"), "y": (1, 2), "z": Interval(value=1.0, low=0.0, high=2.0)})
    assert read_json(tmp_path / "a.json") == {
        "x": "inf",
        "y": [1, 2],
        "z": {"value": 1.0, "low": 0.0, "high": 2.0, "level": 0.95},
    }


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"9" * 5000])
def test_a_file_that_is_not_json_raises(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"a.json must hold JSON, got"):
        read_json(tmp_path / "a.json")


def test_a_missing_json_file_raises(tmp_path):
    with pytest.raises(RecordError, match=r"a.json must exist, got no such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(RecordError, match=r"must hold JSON, got .*directory"):
        read_json(tmp_path)
