"""Runs of GANs on the page: read from real records, with their grids, scores and the evidence for their batch sizes."""

import base64
import json
from pathlib import Path

import pytest
import torch

from batchwright.core.errors import RecordError
from batchwright.gan import MMDGAN
from batchwright.gan.judge import train_judge
from batchwright.gan.presets import preset_networks, preset_options
from batchwright.gan.run import run_gan
from batchwright.gan.sources import load_images
from batchwright.report import write_report
from batchwright.report.any_records import read_any
from batchwright.report.collect import collect


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gan") / "run"
    images = load_images("digits")
    judge = train_judge(images, num_examples=4000)
    torch.manual_seed(0)
    options = preset_options("mmd", "mlp", critic_steps=1, warmup_critic_steps=1, batch_size=32, clip=0.01)
    trainer = MMDGAN(images.train, preset_networks("mlp", 8, 1), options)
    run_gan(trainer, images, judge, folder, steps=30, plan_at=12, label="a <b>", settings={"seed": 3})
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_run_is_read_as_it_was_recorded(folder: Path):
    found = read_any(folder, "run")
    assert (found.task, found.label, found.seed, found.method) == ("digits", "a <b>", 3, "mmd-gan")
    assert found.num_steps == 30
    assert found.reason == "steps"
    assert found.looks[-1].step == 30
    assert found.looks[-1].score.low <= found.looks[-1].score.value <= found.looks[-1].score.high
    png = base64.b64decode(found.looks[-1].grid.removeprefix("data:image/png;base64,"))
    assert png == (folder / "grids" / "step-0000030.png").read_bytes()
    assert [each.network for each in found.evidence] == ["critic", "generator"]
    assert [point.batch_size for point in found.evidence[0].points] == [8, 32, 128]
    assert found.evidence_step == 12
    assert any("the MMD matches their means alone" in text for text in found.warnings)


def test_the_page_shows_grids_scores_evidence_and_warnings(folder: Path):
    page = write_report(folder).read_text()
    for words in (
        "digits: mmd-gan after 30 generator steps, classifier-IS",
        "Samples over time",
        'src="data:image/png;base64,',
        "Classifier-IS",
        "Rarest class",
        "The evidence for the batch sizes",
        "noise equals signal",
        "was not tested by the plan",
        "the MMD matches their means alone",
        "a &lt;b&gt;",
    ):
        assert words in page
    assert "a <b>" not in page


def test_a_grid_outside_of_the_run_or_no_png_is_not_shown(folder: Path):
    secret = folder.parent / "secret.png"
    secret.write_bytes((folder / "grids" / "step-0000030.png").read_bytes())
    path = folder / "records.jsonl"
    text = path.read_text()
    path.write_text(text.replace("grids/step-0000030.png", "../secret.png"))
    assert read_any(folder, "run").looks[-1].grid == ""
    path.write_text(text)
    (folder / "grids" / "step-0000030.png").write_text("<svg onload=alert(1)>")
    assert read_any(folder, "run").looks[-1].grid == ""
    assert "Samples over time" not in write_report(folder).read_text()


def test_damaged_records_are_told_and_a_run_that_has_just_begun_makes_a_page(folder: Path):
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(json.dumps(lines[0]) + "\n")
    assert "digits: mmd-gan after 0 generator steps" in write_report(folder).read_text()
    evaluation = next(line for line in lines if line["kind"] == "evaluation")
    del evaluation["kid"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RecordError, match="KeyError"):
        read_any(folder, "run")
    with pytest.raises(RecordError, match="it cannot be read"):
        collect(folder)
