"""Installed versions, processors, and what distorts timings on them; asked without torch, so that help and reports start at once."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

MALLOC_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def package_version(name: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def num_usable_cpus() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """Processes that wanted a processor over the last minute, or None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def malloc_keeps_memory() -> bool | None:
    """Whether glibc was told to keep large buffers between steps; None where another allocator is in use.

    Without it the page faults of large buffers can double the time of a large-batch step on a CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return None
    return all(name in os.environ for name in MALLOC_SETTINGS)
