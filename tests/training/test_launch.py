"""What a rank knows of its launcher: its device, a restart of the same job, and the micro-batch that the last attempt noted."""

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.core.records import RecordWriter
from batchwright.training.group import Group, job_size
from batchwright.training.launch import (
    launcher,
    note_micro_batch_size,
    noted_micro_batch_size,
    rank_device,
    restarted,
)
from batchwright.training.split import share_of


class Three(Group):
    world_size = 3
    rank = 2


def test_the_smallest_noted_micro_batch_stays(tmp_path):
    assert noted_micro_batch_size(tmp_path) is None
    for size, wanted in ((12, 12), (6, 6), (9, 6)):
        note_micro_batch_size(tmp_path, size)
        assert noted_micro_batch_size(tmp_path) == wanted
    (tmp_path / "micro_batch_size.json").write_text("torn")
    assert noted_micro_batch_size(tmp_path) is None


def test_only_a_restart_by_the_same_launcher_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    with RecordWriter(tmp_path) as records:
        records.write("start", launcher=launcher(), step=0)
    assert not restarted(tmp_path)  # the first attempt
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted(tmp_path)
    assert not restarted(tmp_path / "none")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another job")
    assert not restarted(tmp_path)  # the run of somebody else stays as it is
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert launcher() is None
    assert not restarted(tmp_path)


def test_a_process_is_one_of_several_only_where_a_launcher_says_all_of_it(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert job_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert job_size() == 1
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert job_size() == 4


def test_several_ranks_take_a_gpu_each(monkeypatch):
    assert rank_device("cpu", Three()) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_device("auto", Three()) == torch.device("cuda", 1)
    assert chosen == [1]
    with pytest.raises(InputError, match="each takes a GPU of its own"):
        rank_device("cuda:1", Three())
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="got rank 2 of this machine for 2"):
        rank_device("cuda", Three())


@pytest.mark.parametrize(("num_examples", "world_size"), [(8, 3), (1, 3), (0, 2), (31, 4)])
def test_shares_cover_a_batch_evenly(num_examples, world_size):
    parts = [share_of(num_examples, rank, world_size) for rank in range(world_size)]
    assert [place for start, stop in parts for place in range(start, stop)] == list(range(num_examples))
    lengths = [stop - start for start, stop in parts]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)
