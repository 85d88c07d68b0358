"""The study of train longer: its parts against closed forms, and a whole run in seconds."""

import math

import pytest
import torch
from torch import nn

from batchwright.core.errors import DataError
from batchwright.core.serialization import to_plain
from batchwright.studies import run_study, runner
from batchwright.studies.registry import REGISTRY
from batchwright.studies.streams import stream
from batchwright.studies.study import PRESETS, Place
from batchwright.studies.train_longer.arms import ARMS
from batchwright.studies.train_longer.fit import Sizes, accuracy, fit
from batchwright.studies.train_longer.identities import run_covariance, run_ghosts
from batchwright.studies.train_longer.presets import TABLES, cells
from batchwright.studies.train_longer.problems import Problem, cifar, crop_and_flip, digits, make_network
from batchwright.studies.train_longer.study import TRAIN_LONGER
from batchwright.studies.train_longer.table_summary import find_tables, table_rows
from batchwright.studies.train_longer.travel import run_travel
from batchwright.studies.train_longer.walks import run_walks


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(folder=tmp_path, device=torch.device("cpu"))


def test_target_1_ghosts_are_batch_norms_in_a_row(place):
    found = run_ghosts(place, num_ghosts=8, ghost_size=16, num_features=24, seed=0)
    for what in ("outputs", "gradients", "running", "evaluation"):
        assert found[what] < 1e-6
    assert found["weights"] == pytest.approx(1.0, abs=1e-12)
    assert found["printed"] == [pytest.approx(0.698, abs=5e-4), pytest.approx(0.869, abs=5e-4)]


def test_target_2_covariances_are_those_of_the_closed_forms(place):
    found = run_covariance(place, batch_sizes=[8, 256], num_draws=4000, seed=0)
    for each in found["plain"]:
        assert each["ratio"] == pytest.approx(1.0, rel=0.03)
    for each in found["noise"]:
        assert each["ratio"] == pytest.approx(each["closed"], rel=0.03)
    assert found["noise"][0]["closed"] == 1.0  # balanced weights match exactly


def test_target_5_log_t_on_digits_before_they_are_interpolated(place):
    found = run_travel(place, batch_size=32, scaled=True, label_noise=0.0, num_updates=1500, seed=0)
    log, root = (found["laws"][law].r_squared for law in ("log", "square-root"))
    assert log >= 0.97
    assert log >= root + 0.1


@pytest.mark.slow
def test_target_6_the_walk_in_a_brownian_potential(place):
    found = run_walks(place, num_walkers=400, num_steps=300_000, seed=0)
    law = found["sinai"]["laws"]["log-power"]
    assert 1.6 <= law.exponent.value <= 2.1
    assert law.r_squared >= 0.99


def test_a_free_walk_is_the_square_root(place):
    found = run_walks(place, num_walkers=400, num_steps=3000, seed=1)
    # Root mean squares of 400 walkers have a standard error of 1/sqrt(800).
    for step, distance in zip(found["steps"], found["free"]["distances"], strict=True):
        assert distance == pytest.approx(math.sqrt(step), rel=4 / math.sqrt(800))
    assert found["sinai"]["distances"][-1] < found["free"]["distances"][-1] / 2


def test_arms_have_the_updates_and_learning_rates_of_the_paper():
    sizes = Sizes(small=128, large=2048, lr=0.1, epochs=200, weight_decay=1e-4)
    assert sizes.num_updates(ARMS["sb"], 50_000) == 200 * 391 == sizes.num_updates(ARMS["ra"], 50_000)
    assert sizes.num_updates(ARMS["gbn"], 50_000) == 200 * 25
    assert sizes.first_lr(ARMS["lr"]) == pytest.approx(0.4)
    assert sizes.first_lr(ARMS["noise"]) == 0.1
    assert [name for name, arm in ARMS.items() if not arm.large] == ["sb"]


def test_a_fit_falls_in_phases_and_takes_every_example_once_an_epoch():
    problem = digits(100, 0.0, 0)
    seen: list[torch.Tensor] = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    model = Spy(64, 10)
    fit(model, problem, batch_size=30, lr=0.1, num_updates=8, weight_decay=0.0, generator=stream(0))
    assert [len(each) for each in seen] == [30, 30, 30, 10] * 2
    for epoch in (seen[:4], seen[4:]):
        assert sorted(torch.cat(epoch).sum(1).tolist()) == pytest.approx(sorted(problem.inputs.sum(1).tolist()))


def test_networks_with_and_without_ghosts_have_the_same_weights():
    for name, number in (("digits-mlp", 128 * 64), ("resnet-8", None)):
        plain, ghost = (make_network(name, 3, ghost_size=size) for size in (None, 4))
        for a, b in zip(plain.parameters(), ghost.parameters(), strict=True):
            assert torch.equal(a, b)
        assert number is None or next(plain.parameters()).numel() == number
    images = torch.randn(10, 3, 32, 32)
    assert not torch.allclose(plain(images), ghost(images))
    # A fresh norm evaluates with mean 0 and variance 1, ghosts or not.
    assert torch.allclose(
        make_network("resnet-8", 3, ghost_size=4).eval()(images),
        make_network("resnet-8", 3, ghost_size=None).eval()(images),
    )


def test_label_noise_leaves_the_test_labels_right():
    clean, noisy = digits(600, 0.0, 1), digits(600, 0.2, 1)
    assert torch.equal(clean.inputs, noisy.inputs)
    assert torch.equal(clean.test_labels, noisy.test_labels)
    share = float((clean.labels != noisy.labels).float().mean())
    assert share == pytest.approx(
        0.18, abs=4 * math.sqrt(0.18 * 0.82 / 600)
    )  # a tenth of the drawn ones come out right


def test_crops_and_flips_move_whole_images():
    images = torch.arange(32.0).expand(6, 3, 32, 32).clone()
    found = crop_and_flip(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    for each in found:
        inside = each[0][each[0].sum(1) > 0][0]  # a row that no padding has covered
        steps = inside[inside > 0].diff()
        assert (steps == 1).all() or (steps == -1).all()


def test_accuracy_leaves_the_mode():
    problem = Problem(
        inputs=torch.randn(4, 2),
        labels=torch.zeros(4).long(),
        test_inputs=torch.eye(2),
        test_labels=torch.tensor([0, 1]),
    )
    model = nn.Linear(2, 2, bias=False).train()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    assert accuracy(model, problem.test_inputs, problem.test_labels) == 100.0
    assert model.training


def test_the_published_runs_need_the_whole_of_cifar(tmp_path):
    with pytest.raises(DataError, match="cifar10-train"):
        cifar(tmp_path, 50_000, torch.device("cpu"))


def test_every_preset_has_cells_with_names_of_their_own():
    for preset in (*PRESETS, "middle", "tiny"):
        names = [cell.name for cell in cells(preset, 0)]
        assert len(names) == len(set(names)) > 0
    assert REGISTRY["train-longer"] is TRAIN_LONGER
    assert {table.name for table in TABLES.values() if "paper" in table.num_seeds} == {
        "cifar-resnet-44-b-2048",
        "cifar-resnet-44-b-4096",
    }


def made(arm: str, seed: int, test: float, train: float = 100.0) -> tuple[str, dict]:
    return f"clean/{arm}/seed-{seed}", {"arguments": {"arm": arm, "seed": seed}, "test": test, "train": train}


def test_verdicts_are_of_differences_seed_by_seed():
    """Seeds that differ by tens of points and arms by exactly three: the difference is sure, whatever the scatter of the seeds."""
    results = dict(
        made(arm, seed, 50 + 10 * seed + more)
        for seed in range(4)
        for arm, more in (("sb", 3.0), ("lb", 0.0), ("lr", 2.7), ("gbn", 3.1), ("ra", 3.5))
    )
    rows = {row.what: row for row in table_rows(find_tables("smoke", results)) if row.group == "Digits, clean labels"}
    gap = rows["SB less LB: points of test accuracy"]
    assert (gap.measured.value, gap.verdict) == (pytest.approx(3.0), "holds")
    assert rows["share of the gap that +LR recovers"].measured.value == pytest.approx(0.9)
    assert rows["+RA less SB: points of test accuracy"].verdict == "holds"
    assert rows["SB less +GBN: points of test accuracy"].verdict == "holds"


def test_a_whole_run_has_every_part(tmp_path):
    before = runner.PRESETS
    runner.PRESETS = (*before, "tiny")
    try:
        record = run_study(TRAIN_LONGER, preset="tiny", out=tmp_path, num_workers=1)
    finally:
        runner.PRESETS = before
    assert record.failures == ()
    assert {figure.name for figure in record.figures} == {"tables", "courses", "distances", "potential"}
    assert {row.group for row in record.rows} >= {
        "Ghost batch norm, exact",
        "Covariance of a batch's gradient",
        "Digits, clean labels",
        "Distance from the beginning",
        "Walks whose law is known",
    }
    assert to_plain(record)["rows"][0]["verdict"] == "holds"
