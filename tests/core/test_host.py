"""What is asked of the machine without torch."""

import platform

from batchwright.core import host as module
from batchwright.core.host import load_average, malloc_keeps_memory, num_usable_cpus, package_version


def test_package_version_is_none_for_what_is_not_installed():
    assert package_version("torch") is not None
    assert package_version("no-such-package-of-this-name") is None


def test_malloc_keeps_memory_reads_both_settings(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in module.MALLOC_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert malloc_keeps_memory() is False
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    assert malloc_keeps_memory() is False
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000000000")
    assert malloc_keeps_memory() is True
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert malloc_keeps_memory() is None


def test_the_machine_has_processors_and_a_load():
    assert num_usable_cpus() >= 1
    load = load_average()
    assert load is None or load >= 0


def test_processors_are_counted_where_the_system_has_no_affinity(monkeypatch):
    monkeypatch.delattr(module.os, "sched_getaffinity", raising=False)
    assert num_usable_cpus() >= 1
    monkeypatch.delattr(module.os, "getloadavg", raising=False)
    assert load_average() is None
