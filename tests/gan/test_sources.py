"""Images by name, from files of known content, and from a folder."""

import gzip

import numpy as np
import pytest
import torch

from batchwright.core.errors import DataError, InputError
from batchwright.core.png import write_png
from batchwright.gan.sources import load_images


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    for part, num in (("train", 30), ("t10k", 10)):
        images = random.integers(0, 256, (num, 28, 28), dtype=np.uint8)
        images[0] = 255
        write_idx(tmp_path / "mnist" / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "mnist" / f"{part}-labels-idx1-ubyte.gz", np.arange(num, dtype=np.uint8) % 10)
    (tmp_path / "cifar10").mkdir()
    for part, num in (("train-20k", 20), ("test-5k", 10)):
        pixels = random.integers(0, 256, (num, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / "cifar10" / f"cifar10-{part}.npz", x=pixels, y=np.arange(num) % 10)
    (tmp_path / "clothing-32").mkdir()
    parts = {}
    for part, num in (("train", 12), ("validation", 4), ("test", 5)):
        parts |= {f"x_{part}": np.zeros((num, 32, 32, 3), dtype=np.uint8), f"y_{part}": np.arange(num) % 10}
    np.savez(tmp_path / "clothing-32" / "clothing-32x32.npz", **parts)
    return tmp_path


def test_every_set_has_its_size_channels_and_range(root):
    shapes = {name: tuple(load_images(name, data_root=root).train.shape) for name in ("mnist", "cifar", "clothing")}
    assert shapes == {"mnist": (30, 1, 28, 28), "cifar": (20, 3, 32, 32), "clothing": (16, 3, 32, 32)}
    digits = load_images("digits")
    assert (len(digits.train), len(digits.test), digits.num_classes) == (1437, 360, 10)
    assert (digits.train.min(), digits.train.max()) == (-1, 1)
    assert load_images("mnist", data_root=root).train[0].eq(1).all()
    assert load_images("clothing", data_root=root).train.eq(-1).all()


def test_to_32_the_edge_is_padded_with_black_and_other_sizes_keep_the_mean(root):
    own = load_images("mnist", data_root=root).train
    padded = load_images("mnist", image_size=32, data_root=root).train
    assert torch.equal(padded[:, :, 2:-2, 2:-2], own)
    assert padded[:, :, :2].eq(-1).all()
    assert padded[..., -2:].eq(-1).all()
    small = load_images("cifar", image_size=8, data_root=root).train
    assert torch.allclose(
        small.mean(dim=(2, 3)), load_images("cifar", data_root=root).train.mean(dim=(2, 3)), atol=1e-5
    )
    assert load_images("mnist", image_size=64, data_root=root).train.shape[-1] == 64


def test_a_folder_is_split_and_its_folders_are_classes(tmp_path):
    pytest.importorskip("PIL")
    for number in range(24):
        folder = tmp_path / "pictures" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / f"{number:02d}.png", np.full((8, 8, 1), 10 * number, dtype=np.uint8))
    found = load_images(str(tmp_path / "pictures"), image_size=8)
    assert (found.name, found.num_classes, found.num_channels) == ("pictures", 2, 1)
    assert (len(found.train), len(found.test)) == (22, 2)
    values = torch.cat([found.train, found.test])[:, 0, 0, 0]
    assert sorted(((values + 1) * 127.5).round().int().tolist()) == [10 * number for number in range(24)]
    # Odd numbers are in folder a, class 0.
    assert (((values + 1) * 12.75).round() % 2 == 0).long().tolist() == [
        *found.train_labels.tolist(),
        *found.test_labels.tolist(),
    ]


def test_what_cannot_be_loaded_is_one_line(root, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="source must be one of digits, mnist, fashion, cifar, clothing, or a folder"):
        load_images("celeba")
    with pytest.raises(InputError, match="image_size must be one of 8, 28, 32, 64, got 30"):
        load_images("digits", image_size=30)
    with pytest.raises(DataError, match="data file must be there"):
        load_images("fashion", data_root=root)
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    with pytest.raises(DataError, match="data root must be given"):
        load_images("mnist")
    pytest.importorskip("PIL")
    few = tmp_path / "few"
    few.mkdir()
    write_png(few / "a.png", np.zeros((8, 8, 1), dtype=np.uint8))
    with pytest.raises(DataError, match="must hold at least 20 of them, got 1 in"):
        load_images(str(few))
