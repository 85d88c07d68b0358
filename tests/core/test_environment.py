"""The environment names versions and the machine's kind, and nobody's name or folder."""

import json
import platform
import re
import socket

import pytest
import torch

from batchwright.core.environment import available_memory_bytes, environment, resolve_device
from batchwright.core.errors import InputError
from batchwright.core.host import package_version


def test_environment_names_no_user_host_or_path(monkeypatch, tmp_path):
    home, work = tmp_path / "home-of-somebody", tmp_path / "secret-project"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.chdir(work)
    monkeypatch.setattr(socket, "gethostname", lambda: "private-host")
    real = platform.uname()
    named = platform.uname_result(real.system, "private-host", real.release, real.version, real.machine)
    monkeypatch.setattr(platform, "uname", lambda: named)
    text = json.dumps(environment(), allow_nan=False)
    for private in ("somebody", "secret-project", "private-host", str(tmp_path)):
        assert private not in text
    assert not re.search(r'"[^"]*[/\\][^"]*"', text), "a value looks like a path"


def test_environment_names_what_a_timing_needs():
    found = environment("cpu")
    assert found["torch"] == torch.__version__
    assert found["batchwright"] == package_version("batchwright")
    assert found["python"] == platform.python_version()
    assert found["device"] == "cpu"
    assert found["num_threads"] == torch.get_num_threads()
    assert 1 <= found["num_cpus"] <= 100_000


def test_resolve_device_knows_auto_and_cpu(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["gpu", "mps", "", "CPU", "meta", ":0", "xla:0"])
def test_an_unknown_device_raises(name):
    with pytest.raises(InputError, match=f"--device must be auto, cpu or cuda, got '{name}'"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_without_a_gpu_raises(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"got '{name}' and torch sees none; use --device cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda:x", "cuda:", "cuda:-1", "cpu:x", "cuda:0:1"])
def test_a_malformed_index_raises(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match=f"--device must be auto, cpu, cuda or cuda:N, got '{name}'"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_raises(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="got 'cuda:2' and torch sees 2; they are counted from cuda:0"):
        resolve_device("cuda:2")


def test_the_machine_has_memory():
    memory = available_memory_bytes(torch.device("cpu"))
    assert memory is None or memory > 0
