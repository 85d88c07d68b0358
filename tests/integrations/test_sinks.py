"""Reports reach TensorBoard and Weights & Biases, for real where they are installed."""

import json
import math
from pathlib import Path

import pytest

from batchwright.core.errors import InputError, MissingExtraError
from batchwright.core.statistics import Interval
from batchwright.integrations import StepReport, StepSink, TensorBoardStepSink, WandbSink
from batchwright.integrations.extras import require


def report(step: int, noise_scale: Interval | None = None) -> StepReport:
    return StepReport(
        step=step,
        num_examples=32 * step,
        batch_size=32,
        lr=0.1,
        noise_scale=noise_scale,
        next_batch_size=64,
        next_micro_batches=2,
        changed=True,
        reason="the batch grows",
    )


class Curves:
    def __init__(self):
        self.points = []

    def add_scalar(self, tag, scalar_value, global_step, /):
        self.points.append((tag, scalar_value, global_step))


def test_only_finite_numbers_are_points():
    writer = Curves()
    sink = TensorBoardStepSink(writer, prefix="run/")
    assert isinstance(sink, StepSink)
    sink(report(1))
    sink(report(2, Interval(value=50.0, low=20.0, high=math.inf)))
    assert writer.points == [
        ("run/batch_size", 32.0, 1),
        ("run/lr", 0.1, 1),
        ("run/num_examples", 32.0, 1),
        ("run/batch_size", 32.0, 2),
        ("run/lr", 0.1, 2),
        ("run/num_examples", 64.0, 2),
        ("run/noise_scale", 50.0, 2),
        ("run/noise_scale_low", 20.0, 2),
    ]


def test_a_folder_gets_files_that_tensorboard_reads(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra batchwright[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardStepSink(tmp_path)
    for step in range(3):
        sink(report(step, Interval(value=50.0 + step, low=20.0, high=90.0)))
    sink.writer.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    found = [(event.step, event.value) for event in read.Scalars("batchwright/noise_scale")]
    assert found == [(0, 50.0), (1, 51.0), (2, 52.0)]


@pytest.mark.filterwarnings("ignore")
def test_an_offline_run_of_weights_and_biases_holds_the_numbers(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra batchwright[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(InputError, match=r"call wandb\.init\(\) first"):
        WandbSink()
    run = wandb.init(project="batchwright", dir=str(tmp_path))
    try:
        sink = WandbSink()
        run.log({"loss": 1.0})  # somebody else's step count goes on beside it
        for step in range(3):
            sink(report(step, Interval(value=50.0 + step, low=20.0, high=90.0)))
        summary = dict(run.summary)
    finally:
        run.finish()
    assert summary["batchwright/noise_scale"] == 52.0
    assert summary["batchwright/step"] == 2
    assert summary["loss"] == 1.0
    assert list(Path(tmp_path).glob("wandb/offline-run-*/*.wandb"))


def test_a_run_that_is_given_needs_no_library():
    class Run:
        def __init__(self):
            self.metrics, self.lines = [], []

        def define_metric(self, name, step_metric=None):
            self.metrics.append((name, step_metric))

        def log(self, line):
            self.lines.append(line)

    run = Run()
    WandbSink(run)(report(7))
    assert run.metrics == [("batchwright/step", None), ("batchwright/*", "batchwright/step")]
    assert json.dumps(run.lines[0])
    assert run.lines[0]["batchwright/step"] == 7


def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    import sys

    for module in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'batchwright\[wandb\]'"):
        WandbSink()
    with pytest.raises(MissingExtraError, match=r"pip install 'batchwright\[tensorboard\]'"):
        TensorBoardStepSink(tmp_path)
    with pytest.raises(MissingExtraError, match="no_such_library must be installed"):
        require("no_such_library", "lightning")
