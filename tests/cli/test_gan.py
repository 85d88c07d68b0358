"""``batchwright gan``: its answer as JSON, its files, a folder of images, and errors of one line."""

import json

import numpy as np
import pytest

from batchwright.cli.app import run
from batchwright.core.png import write_png
from batchwright.core.records import read_records

QUICK = ["--option", "critic_steps=1", "--option", "warmup_critic_steps=1"]


def test_digits_give_grids_scores_and_a_report(tmp_path, capsys):
    out = tmp_path / "run"
    assert run(["gan", "digits", "--steps", "3", "--out", str(out), "--json", *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    result = found["result"]
    assert (found["command"], result["num_steps"], result["reason"]) == ("gan", 3, "steps")
    assert result["batch_sizes"] == {"generator": 64, "critic": 64}
    assert result["scores"]["kid"]["low"] <= result["scores"]["kid"]["value"] <= result["scores"]["kid"]["high"]
    assert len(result["scores"]["shares"]) == 10
    assert result["classifier_accuracy"] > 0.9
    assert (out / "grids" / "step-0000003.png").is_file()
    assert read_records(out).of_kind("start")[0]["method"] == "mmd-gan"
    assert run(["gan", "digits", "--steps", "4", "--out", str(out), "--resume", *QUICK]) == 0
    assert "4 generator steps" in capsys.readouterr().out
    assert run(["report", str(out)]) == 0
    assert "Samples over time" in (out / "report.html").read_text()


def test_auto_tells_the_evidence_and_what_it_does_not_claim(tmp_path, capsys):
    command = ["gan", "digits", "--steps", "4", "--plan-at", "2", "--batch-size", "auto", "--objective", "time", *QUICK]
    assert run([*command, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "Batch size of the critic:" in told
    assert "Batch size of the generator:" in told
    assert "no promise of better samples" in told
    (line,) = read_records(tmp_path).of_kind("batch-plan")
    assert line["step"] == 2
    assert line["plan"]["generator"]["points"]


def test_auto_that_ends_before_its_plan_says_so(tmp_path, capsys):
    assert run(["gan", "digits", "--steps", "2", "--batch-size", "auto", "--out", str(tmp_path), *QUICK]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "the batch size was not planned: the run ended at generator step 2, before --plan-at 100" in told
    assert "--option warmup_critic_steps" in told
    assert "was not planned" in read_records(tmp_path).of_kind("warning")[-1]["text"]


@pytest.mark.parametrize("method", ["gmmn", "gmmn-ae"])
def test_the_baselines_run(method, tmp_path, capsys):
    command = ["gan", "digits", "--method", method, "--batch-size", "100", "--steps", "2", "--json"]
    command += ["--autoencoder-steps", "20"]
    assert run([*command, "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["batch_sizes"]["generator"] == 100
    assert run([*command, "--out", str(tmp_path), "--resume"]) == 0


def test_a_folder_of_images_without_classes_is_scored_by_pixels(tmp_path, capsys):
    pytest.importorskip("PIL")
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(80):
        write_png(folder / f"{number}.png", random.integers(0, 256, (9, 8, 3), dtype=np.uint8))
    command = ["gan", str(folder), "--image-size", "8", "--steps", "2", "--batch-size", "16", *QUICK]
    assert run([*command, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "KID on pixels averaged to 8 x 8" in told
    assert "inception" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "--out must name a folder"),
        (["celeba", "--out", "OUT"], "TASK must be one of digits, mnist, fashion, cifar, clothing, or a folder"),
        (["digits", "--out", "OUT", "--image-size", "30"], "--image-size must be one of 8, 28, 32, 64, got 30"),
        (
            ["digits", "--out", "OUT", "--batch-size", "many"],
            "--batch-size must be a whole number of at least 2, or auto",
        ),
        (["digits", "--out", "OUT", "--loss", "wgan"], "loss must be one of"),
        (["digits", "--out", "OUT", "--method", "vae"], "method must be one of gmmn, gmmn-ae, mmd-gan"),
        (["digits", "--out", "OUT", "--networks", "big"], "networks must be one of dcgan, mlp, small"),
        (["digits", "--out", "OUT", "--option", "speed=1"], "--option must be name=value with a name of"),
        (["digits", "--out", "OUT", "--option", "hinge=high"], "--option hinge must be of the kind float, got 'high'"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, message, tmp_path, capsys):
    assert run(["gan", *[str(tmp_path) if part == "OUT" else part for part in arguments]]) == 2
    told = capsys.readouterr().err
    assert message in " ".join(told.split())
    assert "Traceback" not in told
