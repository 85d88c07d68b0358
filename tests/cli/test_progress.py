"""Progress in a log: a line a minute where standard error is no terminal."""

import pytest

from batchwright.cli import output


def test_a_log_gets_a_line_when_its_time_has_come_and_no_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: clock[0])
    with output.progress_bar() as bar:
        line = bar.add_task("training", total=200, note="")
        for step in range(1, 131):  # a second each
            clock[0] += 1.0
            bar.update(line, completed=step, note=f"step {step}")
    told = capsys.readouterr().err.splitlines()
    assert told == ["training 30%, 60 s: step 60", "training 60%, 120 s: step 120"]


def test_nothing_is_said_where_nothing_is_to_be_shown_or_the_total_is_not_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LOG_EVERY_S", 0.0)
    with output.progress_bar(shown=False) as bar:
        line = bar.add_task("training", total=None, note="")
        bar.update(line, note="hidden")
    assert capsys.readouterr().err == ""
    with output.progress_bar() as bar:
        line = bar.add_task("measuring", total=None, note="")
        bar.update(line, note="the pilot [1/2]")
    assert "the pilot [1/2]" in capsys.readouterr().err
