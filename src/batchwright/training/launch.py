"""How a rank was started: its device, whether its launcher has started it anew, and what the last attempt has left for this one."""

import os
from pathlib import Path

import torch

from batchwright.core.environment import resolve_device
from batchwright.core.errors import InputError, RecordError
from batchwright.core.records import read_json, read_records, write_json
from batchwright.training.group import Group

# Of a run that ended because a micro-batch did not fit: the one that will do.
NOTE_NAME = "micro_batch_size.json"


def rank_device(name: str, group: Group) -> torch.device:
    """The device of this rank: on GPUs, each rank of a machine has its own.

    Raises:
        InputError: If it is unknown or not there, or one GPU is named for several ranks.
    """
    device = resolve_device(name)
    if group.world_size == 1 or device.type == "cpu":
        return device
    if name not in ("auto", "cuda"):
        raise InputError(
            f"--device must be auto, cpu or cuda for several ranks, got {name!r}; each takes a GPU of its own"
        )
    local = int(os.environ.get("LOCAL_RANK", group.rank))
    if local >= torch.cuda.device_count():
        raise InputError(
            f"--nproc-per-node must be at most the number of GPUs, got rank {local} of this machine for "
            f"{torch.cuda.device_count()}; start fewer, or give --device cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def launcher() -> str | None:
    """What a restart by the same ``torchrun`` can be known by; None without one."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if run is None else f"{run}-{os.getppid()}"


def restarted(folder: Path) -> bool:
    """Whether ``torchrun`` has started the ranks anew, after a failure, for the run that lies in ``folder``."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return False
    try:
        lines = read_records(folder).lines
    except RecordError:
        return False
    starts = [line.get("launcher") for line in lines if line["kind"] in ("start", "resume")]
    return bool(starts) and starts[-1] is not None and starts[-1] == launcher()


def note_micro_batch_size(folder: Path, size: int) -> None:
    """Leave the micro-batch that will do to whoever resumes the run."""
    write_json(folder / NOTE_NAME, {"micro_batch_size": min(size, noted_micro_batch_size(folder) or size)})


def noted_micro_batch_size(folder: Path) -> int | None:
    """What `note_micro_batch_size` left; None where it left nothing."""
    try:
        return int(read_json(folder / NOTE_NAME)["micro_batch_size"])
    except (RecordError, KeyError, TypeError, ValueError):
        return None
