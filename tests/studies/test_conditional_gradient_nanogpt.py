"""The published NanoGPT layout: its sizes, its groups, what it computes, and a step of a shrunken one."""

import numpy as np
import pytest
import torch

from batchwright.core.errors import DataError, RecordError
from batchwright.studies.conditional_gradient.nanogpt import LAYOUTS, NanoGPT, make_nanogpt, rotate
from batchwright.studies.conditional_gradient.nanogpt_grid import nanogpt_cells, published_rows
from batchwright.studies.conditional_gradient.nanogpt_run import run_nanogpt
from batchwright.studies.conditional_gradient.rule import BATCH_SIZES, LOSSES, STEP_SIZES
from batchwright.studies.conditional_gradient.scion_run import make_scion
from batchwright.studies.study import Place

SMALL = {"num_symbols": 50, "width": 16, "num_heads": 2, "num_layers": 2}


@pytest.mark.parametrize(("name", "number"), [("124M", 50304 * 768 + 12 * 12 * 768**2), ("1B", 1_008_992_256)])
def test_the_published_layouts_have_the_published_sizes(name, number):
    with torch.device("meta"):
        network = make_nanogpt(LAYOUTS[name])
    assert sum(parameter.numel() for parameter in network.parameters()) == number
    assert number == pytest.approx({"124M": 124e6, "1B": 1e9}[name], rel=0.01)


def test_its_groups_are_sign_of_radius_3000_and_spectral_of_radius_50():
    with torch.device("meta"):
        network = make_nanogpt(LAYOUTS["124M"])
    optimizer = make_scion(network, 3.6e-4)
    groups = {group["norm"]: group for group in optimizer.param_groups}
    assert set(groups) == {"sign", "spectral"}
    assert (groups["sign"]["radius"], groups["spectral"]["radius"]) == (3000.0, 50.0)
    # The embedding and the head are one tensor; the matrices are q, k, v, the projection and two of the MLP.
    assert [tuple(parameter.shape) for parameter in groups["sign"]["params"]] == [(50304, 768)]
    assert groups["sign"]["params"][0] is network.head.weight
    assert len(groups["spectral"]["params"]) == 12 * 6
    assert optimizer.defaults["momentum"] == 0.9


def test_a_prediction_depends_on_nothing_that_follows():
    torch.manual_seed(0)
    network = NanoGPT(**SMALL)
    symbols = torch.randint(0, 50, (1, 8))
    other = symbols.clone()
    other[0, 5:] = (other[0, 5:] + 1) % 50
    with torch.no_grad():
        one, two = network(symbols), network(other)
    assert torch.equal(one[:, :5], two[:, :5])
    assert not torch.allclose(one[:, 5:], two[:, 5:])


def test_rotated_products_depend_on_the_distance_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(8, generator=generator).expand(1, 1, 12, 8) for _ in range(2))
    products = rotate(query)[0, 0] @ rotate(key)[0, 0].T
    for distance in range(-5, 6):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-5)
    assert products[0, 0] == pytest.approx(float(query[0, 0, 0] @ key[0, 0, 0]), rel=1e-5)
    assert not torch.allclose(products.diagonal(1)[0], products.diagonal(2)[0])


def write_tokens(root, name, number, generator):
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, number
    (root / "fineweb10B").mkdir(exist_ok=True)
    tokens = generator.integers(0, 50, number).astype("<u2")
    (root / "fineweb10B" / name).write_bytes(header.tobytes() + tokens.tobytes())


@pytest.fixture
def place(tmp_path):
    generator = np.random.default_rng(0)
    write_tokens(tmp_path, "fineweb_train_000001.bin", 500, generator)
    write_tokens(tmp_path, "fineweb_val_000000.bin", 200, generator)
    return Place(folder=tmp_path, device=torch.device("cpu"), data_root=tmp_path)


SETTINGS = {
    "layout": SMALL,
    "sequence_length": 8,
    "micro_batch_size": 3,
    "num_evaluation": 10,
    "batch_size": 4,
    "lr": 3.6e-4,
    "seed": 0,
}


def test_a_shrunken_run_of_one_step(place):
    found = run_nanogpt(place, **SETTINGS, budgets=[32], run="one")
    assert (found["num_steps"], found["used"]) == (1, 32)
    still = run_nanogpt(place, **{**SETTINGS, "lr": 1e-12}, budgets=[32], run="still")["loss"]
    # It begins with every token about as likely as any other.
    assert still == pytest.approx(np.log(50), abs=0.05)
    assert found["loss"] != still
    assert run_nanogpt(place, **SETTINGS, budgets=[32], run="one")["loss"] == found["loss"]


def test_micro_batches_make_no_difference_but_rounding(place):
    losses = [
        run_nanogpt(place, **{**SETTINGS, "micro_batch_size": size}, budgets=[128], run="micro")["loss"]
        for size in (1, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_in_parts_ends_as_the_whole_one(place):
    whole = run_nanogpt(place, **SETTINGS, budgets=[80, 320], run="whole")
    for part in range(4):
        found = run_nanogpt(place, **SETTINGS, budgets=[80, 320], run="parts", part=part, num_parts=4)
        assert ("loss" in found) == (part == 3)
    assert found["loss"] == whole["loss"]
    assert (found["num_steps"], found["used"]) == (whole["num_steps"], whole["used"])
    with pytest.raises(RecordError, match="run the study anew"):
        run_nanogpt(place, **SETTINGS, budgets=[80], run="lost", part=1, num_parts=2)


def test_without_token_files_it_says_so(tmp_path):
    place = Place(folder=tmp_path, device=torch.device("cpu"), data_root=tmp_path)
    with pytest.raises(DataError, match="fineweb_train"):
        run_nanogpt(place, **SETTINGS, budgets=[32], run="one")


def test_the_paper_preset_has_the_published_grid():
    cells = nanogpt_cells(0)
    assert len({cell.name for cell in cells}) == len(cells)
    settings = {
        (cell.arguments["batch_size"], round(cell.arguments["lr"] * 1e4, 1))
        for cell in cells
        if cell.name.startswith("nanogpt/")
    }
    assert settings == {(size, lr) for size in BATCH_SIZES for lr in STEP_SIZES}
    names = {cell.name for cell in cells}
    assert all(set(cell.after) <= names for cell in cells)


def test_the_published_losses_beside_themselves_hold():
    results = {}
    for lr, row in zip(STEP_SIZES, LOSSES, strict=True):
        for size, loss in zip(BATCH_SIZES, row, strict=True):
            arguments = {"budgets": [1.3e9], "batch_size": size, "lr": lr * 1e-4, "seed": 0}
            results[f"nanogpt/{size}/{lr}"] = {
                "arguments": arguments,
                "loss": loss + (0.05 if size == 64 else 0.0),
                "num_steps": int(1.3e9 // (size * 1024)),
            }
    rows = published_rows(results)
    assert [row.verdict for row in rows] == ["does not hold", *["holds"] * 6]
    assert [row.published for row in rows] == [min(column) for column in zip(*LOSSES, strict=True)]
