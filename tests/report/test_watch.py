"""The served page: for this machine alone, and up to date while runs go on."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchwright.core.errors import InputError
from batchwright.core.records import RECORDS_NAME
from batchwright.report.watch import HOST, Watch

Writer = Callable[..., Path]
HOSTILE = "<img src=x onerror=alert(1)></script><b>task"


@contextmanager
def serving(watch: Watch) -> Iterator[Watch]:
    thread = threading.Thread(target=watch.serve, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.close()
        thread.join(timeout=10)
        assert not thread.is_alive()


def get(watch: Watch, path: str = "/", host: str = "") -> tuple[int, str]:
    status, _, text = watch.answer(host or watch.url.removeprefix("http://").rstrip("/"), path)
    return status, text


def restless(watch: Watch) -> None:
    """The next request may make the page anew at once."""
    watch._rested_at = 0.0


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    found = Watch(tmp_path / "runs")
    yield found
    found.close()


def test_it_listens_on_loopback_alone(watch: Watch):
    assert HOST == "127.0.0.1"
    assert watch._server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "0.0.0.0", ""])
def test_a_request_that_names_another_host_gets_nothing(watch: Watch, host: str):
    status, _, text = watch.answer(host, "/")
    assert status == 403
    assert "<html" not in text


def test_a_folder_that_is_not_there_yet_is_waited_for_and_then_shown(watch: Watch, tmp_path: Path, run_writer: Writer):
    status, text = get(watch)
    assert status == 200
    assert "Waiting for the first record" in text
    assert str(tmp_path) not in text
    assert get(watch, "/version")[1] == "1"
    run_writer(tmp_path / "runs" / "a", label="mine", to_target=None, reason="")
    restless(watch)
    assert get(watch, "/version")[1] == "2"
    assert "mine" in get(watch, "/body")[1]
    restless(watch)
    assert get(watch, "/version")[1] == "2"  # nothing changed, nothing is made


def test_records_are_given_out_and_nothing_else(watch: Watch, tmp_path: Path, run_writer: Writer):
    folder = run_writer(tmp_path / "runs" / "a", to_target=20000.0)
    (tmp_path / "runs" / "secret.txt").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    _, page = get(watch)
    (link,) = set(re.findall(r'href="([^"#]+records\.jsonl)"', page))
    assert get(watch, f"/{link}") == (200, (folder / RECORDS_NAME).read_text())
    for path in ("/secret.txt", "/../secret.txt", "/a/../secret.txt", "/%2e%2e/secret.txt", "/a/", "//secret.txt"):
        status, text = get(watch, path)
        assert (status, "secret" in text) == (404, False), path


def test_a_torn_record_is_passed_over_and_told(watch: Watch, tmp_path: Path, run_writer: Writer):
    folder = run_writer(tmp_path / "runs" / "a", to_target=None, reason="")
    with (folder / RECORDS_NAME).open("a") as file:
        file.write('{"kind": "step", "sche')
    status, text = get(watch)
    assert status == 200
    assert "a line that a kill left unfinished was passed over" in text


def test_a_record_that_is_damaged_does_not_end_the_page(watch: Watch, tmp_path: Path, run_writer: Writer):
    folder = run_writer(tmp_path / "runs" / "a", to_target=20000.0, label="whole")
    broken = run_writer(tmp_path / "runs" / "b", to_target=20000.0)
    lines = (broken / RECORDS_NAME).read_text().splitlines()
    (broken / RECORDS_NAME).write_text("\n".join([lines[0], "gar{bage", *lines[2:]]))
    assert folder.exists()
    _, text = get(watch)
    assert "whole" in text
    assert "is left out, it cannot be read" in text


def test_a_task_with_html_in_its_name_is_text(watch: Watch, tmp_path: Path, run_writer: Writer):
    folder = run_writer(tmp_path / "runs" / "a", task=HOSTILE, label=HOSTILE, to_target=20000.0)
    assert json.loads((folder / RECORDS_NAME).read_text().splitlines()[0])["task"] == HOSTILE
    for path in ("/", "/body"):
        _, text = get(watch, path)
        assert "&lt;img src=x" in text
        assert "<img" not in text.replace("<img src=", "", text.count("<img src=data:"))


def test_the_policy_of_the_page_allows_its_own_server_and_three_scripts(watch: Watch):
    _, text = get(watch)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert "connect-src 'self'" in policy
    assert policy.count("sha256-") == 3
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_of_a_thousand_runs_one_that_changed_is_read_anew(
    watch: Watch, tmp_path: Path, run_writer: Writer, monkeypatch: pytest.MonkeyPatch
):
    first = run_writer(tmp_path / "runs" / "run-0", to_target=None, reason="", num_records=3)
    text = (first / RECORDS_NAME).read_text()
    for number in range(1, 1000):
        folder = tmp_path / "runs" / f"run-{number}"
        folder.mkdir()
        (folder / RECORDS_NAME).write_text(text)
    read = []
    collecting = sys.modules["batchwright.report.collect"]  # the room exports a function of this name
    reader = collecting.read_any
    monkeypatch.setattr(collecting, "read_any", lambda path, name: read.append(name) or reader(path, name))
    status, page = get(watch)
    assert status == 200
    assert len(read) == 1000
    assert "1,000" in page
    read.clear()
    with (first / RECORDS_NAME).open("a") as file:
        file.write('{"kind": "end", "schema": 1, "step": 3, "num_examples": 96, "train_s": 1.0, "reason": "limit"}\n')
    restless(watch)
    assert get(watch, "/version")[1] == "2"
    assert read == ["run-0"]


def test_work_pays_its_pause(watch: Watch, tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path / "runs" / "a", to_target=None, reason="")
    get(watch)
    watch._rested_at = float("inf")
    run_writer(tmp_path / "runs" / "b", to_target=None, reason="")
    assert get(watch, "/version")[1] == "1"
    restless(watch)
    assert get(watch, "/version")[1] == "2"


def test_a_port_that_is_taken_is_told(watch: Watch, tmp_path: Path):
    taken = int(watch.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(InputError, match=f"port must be free and may be opened, got {taken}"):
        Watch(tmp_path, port=taken)


def test_a_browser_follows_a_run_in_progress(tmp_path: Path, run_writer: Writer, browser: Callable[..., str]):
    """Headless Chromium: the second run comes after the page was drawn, and is on it without the page being loaded again."""
    run_writer(tmp_path / "runs" / "a", label="first", task=HOSTILE, to_target=None, reason="")
    asked: list[str] = []

    class Growing(Watch):
        def answer(self, host: str, path: str) -> tuple[int, str, str]:
            asked.append(path)
            if asked.count("/version") == 2 and path == "/version":
                run_writer(tmp_path / "runs" / "b", label="second", task=HOSTILE, to_target=20000.0)
            restless(self)
            return super().answer(host, path)

    with serving(Growing(tmp_path / "runs")) as watch:
        dom = browser(watch.url)
    assert asked.count("/") == 1
    assert asked.count("/body") == 1
    assert "second" in dom
    assert 'class="live"' in dom
    assert "live, updated" in dom or ">live<" in dom
    assert "CONSOLE" not in dom, dom[dom.index("CONSOLE") - 200 :][:800]
    assert "<img src=x" not in dom
    assert dom.count("js-plotly-plot") >= 1
    assert ">This figure could not be drawn" not in dom


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path / "runs" / "a", label="mine", to_target=20000.0)
    command = [sys.executable, "-u", "-m", "batchwright", "report", str(tmp_path / "runs"), "--watch"]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300"},
        # A test run in the background of a shell ignores Ctrl-C, and so would its child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/", line)
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert "mine" in answer.read().decode()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 0, err
    assert "Ended." in out
    assert "Traceback" not in err
