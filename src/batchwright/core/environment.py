"""What a run was made on: versions, device and threads."""

import platform
from pathlib import Path
from typing import Any

import torch

from batchwright.core.errors import InputError
from batchwright.core.host import load_average, malloc_keeps_memory, num_usable_cpus, package_version


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, platform, device and threads of this process; no user, host or path is named."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "batchwright": package_version("batchwright"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": str(device),
        "device_name": name,
        "num_cpus": num_usable_cpus(),
        "num_threads": torch.get_num_threads(),
        "malloc_keeps_memory": malloc_keeps_memory(),
        "load": load_average(),
    }


def resolve_device(name: str) -> torch.device:
    """The device behind ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: If it is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device must be auto, cpu or cuda, got {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"--device must name a device that is there, got {name!r} and torch sees none; use --device cpu"
        )
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device must name a device that is there, got {name!r} and torch sees {torch.cuda.device_count()}; "
            "they are counted from cuda:0"
        )
    return device


def available_memory_bytes(device: torch.device) -> int | None:
    """Memory that can be taken on ``device`` now: free on the GPU, or available to this process; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:  # a container may be allowed less than the machine has
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return min(available, limit - used)
    except (OSError, ValueError):
        return available
