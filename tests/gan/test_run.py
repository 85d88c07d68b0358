"""A run with its records: grids, scores, plan and warnings on disk, and a run that was cut goes on bit by bit."""

import signal

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError, NonFiniteLossError
from batchwright.core.records import read_records
from batchwright.gan import MMDGAN
from batchwright.gan.judge import Judge, load_judge, save_judge, train_judge
from batchwright.gan.presets import LOSSES, METHODS, NETWORKS, preset_networks, preset_options
from batchwright.gan.run import run_gan
from batchwright.gan.sources import ImageSet, load_images


@pytest.fixture(scope="module")
def images():
    return load_images("digits")


@pytest.fixture(scope="module")
def judge(images):
    return train_judge(images)


def make(images, seed=0, **options):
    torch.manual_seed(seed)
    chosen = preset_options("mmd", "mlp", **{"critic_steps": 1, "warmup_critic_steps": 1, **options})
    return MMDGAN(images.train, preset_networks("mlp", 8, 1), chosen, seed=0)


def test_the_judge_knows_real_digits_and_scores_them_near_ten_classes(images, judge):
    assert judge.accuracy > 0.9
    assert judge.real_score > 7.5
    real = judge.verdict(images.train[:1000])
    assert real.kid.low < 0.1
    assert real.smallest_share.low > 0.05
    assert real.score.value == pytest.approx(judge.real_score, rel=0.15)
    grey = judge.verdict(torch.zeros(200, 1, 8, 8))
    assert grey.score.value == pytest.approx(1.0, abs=1e-6)
    assert grey.smallest_share.value == 0
    assert grey.kid.low > real.kid.high


def test_a_judge_is_the_same_after_a_resume_and_does_without_classes(images, judge, tmp_path):
    save_judge(judge, tmp_path)
    again = load_judge(images, tmp_path)
    assert again.verdict(images.test) == judge.verdict(images.test)
    bare = ImageSet(
        name="bare", train=images.train, test=images.test, train_labels=None, test_labels=None, num_classes=0
    )
    found = train_judge(bare)
    assert isinstance(found, Judge)
    assert found.features(images.test).shape == (360, 64)
    verdict = found.verdict(images.train[:300])
    assert (verdict.score, verdict.shares, verdict.smallest_share) == (None, (), None)
    assert load_judge(bare, tmp_path) is None


def test_training_a_judge_leaves_the_global_generator_alone(images):
    state = torch.get_rng_state()
    train_judge(images, num_examples=300)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore::batchwright.gan.FeatureScaleWarning")
def test_a_run_that_was_cut_goes_on_bit_by_bit(images, judge, tmp_path):
    whole = make(images, collapse_every=4)
    run_gan(whole, images, judge, tmp_path / "whole", steps=12)
    run_gan(make(images, collapse_every=4), images, judge, tmp_path / "cut", steps=7)
    rest = make(images, seed=3, collapse_every=4)
    run = run_gan(rest, images, judge, tmp_path / "cut", steps=12, resume=True)
    assert torch.equal(whole.sample(20), rest.sample(20))
    grids = [(tmp_path / name / "grids" / "step-0000012.png").read_bytes() for name in ("whole", "cut")]
    assert grids[0] == grids[1]
    assert (run.reason, run.num_steps) == ("steps", 12)
    lines = [read_records(tmp_path / name).lines for name in ("whole", "cut")]
    scores = [next(line["kid"] for line in reversed(each) if line["kind"] == "evaluation") for each in lines]
    assert scores[0] == scores[1]
    assert [line["kind"] for line in lines[1]].count("end") == 1
    assert run.train_s > 0


def test_ctrl_c_leaves_a_run_that_can_go_on(images, judge, tmp_path):
    trainer = make(images)

    def stop(step, seconds, loss):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    run = run_gan(trainer, images, judge, tmp_path, steps=50, on_step=stop)
    assert (run.reason, run.num_steps) == ("interrupted", 3)
    again = make(images, seed=2)
    assert run_gan(again, images, judge, tmp_path, steps=4, resume=True).num_steps == 4


def test_time_ends_a_run_and_warnings_are_kept(images, judge, tmp_path):
    run = run_gan(make(images, clip=0.01, warmup_steps=2), images, judge, tmp_path, seconds=0.05)
    assert run.reason == "time"
    assert run.train_s >= 0.05
    run = run_gan(make(images, clip=0.01, warmup_steps=0), images, judge, tmp_path / "b", steps=2)
    assert "the MMD matches their means alone" in run.warnings[0]
    records = read_records(tmp_path / "b")
    assert records.of_kind("warning")[0]["text"] == run.warnings[0]


def test_a_loss_that_is_not_finite_ends_the_records_with_its_cause(images, judge, tmp_path):
    trainer = make(images)
    trainer.data = trainer.data.clone().fill_(np.nan)
    with pytest.raises(NonFiniteLossError, match="real points hold NaN"):
        run_gan(trainer, images, judge, tmp_path, steps=3)
    records = read_records(tmp_path)
    assert "real points hold NaN" in records.of_kind("warning")[0]["text"]
    assert records.of_kind("end")[0]["reason"] == "not finite"


def test_a_run_needs_a_limit_and_a_fresh_folder(images, judge, tmp_path):
    with pytest.raises(InputError, match="steps or seconds must be given, got neither"):
        run_gan(make(images), images, judge, tmp_path)
    run_gan(make(images), images, judge, tmp_path, steps=1)
    with pytest.raises(InputError, match="--out must be a fresh folder"):
        run_gan(make(images), images, judge, tmp_path, steps=1)


@pytest.mark.filterwarnings("ignore::batchwright.gan.FeatureScaleWarning")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("networks", "size"), [("mlp", 8), ("small", 28), ("dcgan", 8)])
def test_every_preset_takes_a_step(loss, networks, size):
    torch.manual_seed(0)
    data = torch.rand(12, 1, size, size) * 2 - 1
    options = preset_options(loss, networks, batch_size=4, warmup_critic_steps=1, critic_steps=1)
    trainer = MMDGAN(data, preset_networks(networks, size, 1), options)
    trainer.train(1)
    assert trainer.sample(2).shape == (2, 1, size, size)


def test_presets_are_told_apart():
    assert set(NETWORKS) == {"mlp", "small", "dcgan"}
    assert set(METHODS) == {"mmd-gan", "gmmn", "gmmn-ae"}
    assert preset_options("mmd", "dcgan").clip == 0.01
    assert preset_options("mmd", "small").clip == 0.1
    assert preset_options("repulsive", "small").spectral_norm
    assert preset_options("mmd", "small", method="gmmn").batch_size == 1000
    with pytest.raises(InputError, match="networks 'mlp' are for images of 8 x 8, got 28"):
        preset_networks("mlp", 28, 1)
