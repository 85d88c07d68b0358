"""Folders of images against the arrays they were written from."""

import sys

import numpy as np
import pytest

from batchwright.core.errors import DataError, MissingExtraError
from batchwright.core.png import write_png
from batchwright.data.image_folder import read_image_folder

pytest.importorskip("PIL")


def pictures(num, size, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, size, size, channels), dtype=np.uint8)


def test_images_come_back_as_they_were_written_in_the_order_of_their_names(tmp_path):
    wanted = pictures(3, 8, 3)
    for name, pixels in zip(("b.png", "a.PNG", "c.png"), wanted[[1, 0, 2]], strict=True):
        write_png(tmp_path / name, pixels)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    found = read_image_folder(tmp_path, 8)
    assert np.array_equal(found.images, wanted)
    assert found.labels is None
    assert found.classes == ()


def test_folders_are_classes_and_grey_stays_grey(tmp_path):
    for name, pixels in zip(("cat", "dog", "dog"), pictures(3, 8, 1), strict=True):
        (tmp_path / name).mkdir(exist_ok=True)
        write_png(tmp_path / name / f"{pixels[0, 0, 0]}.png", pixels)
    found = read_image_folder(tmp_path, 8)
    assert found.images.shape == (3, 8, 8, 1)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.classes == ("cat", "dog")
    write_png(tmp_path / "loose.png", pictures(1, 8, 3)[0])
    mixed = read_image_folder(tmp_path, 8)
    assert mixed.labels is None
    assert mixed.images.shape == (4, 8, 8, 3)


def test_a_wide_image_is_cut_around_its_middle_and_scaled_by_the_mean(tmp_path):
    pixels = np.zeros((4, 8, 1), dtype=np.uint8)
    pixels[:, 2:6] = np.array([[0, 40], [80, 120]], dtype=np.uint8).repeat(2, 0).repeat(2, 1)[:, :, None]
    write_png(tmp_path / "a.png", pixels)
    assert read_image_folder(tmp_path, 2).images[0, :, :, 0].tolist() == [[0, 40], [80, 120]]
    assert read_image_folder(tmp_path, 1).images.tolist() == [[[[60]]]]


def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="a folder of images must be there, got"):
        read_image_folder(tmp_path / "none", 8)
    with pytest.raises(DataError, match=r"must hold .png or .jpg files, got none in"):
        read_image_folder(tmp_path, 8)
    write_png(tmp_path / "a.png", pictures(1, 8, 3)[0])
    whole = (tmp_path / "a.png").read_bytes()
    for damage in (whole[:60], b"", b"GIF89a" + whole):
        (tmp_path / "a.png").write_bytes(damage)
        with pytest.raises(DataError, match=r"a.png must be a whole PNG or JPEG image, got .*; mend it or take it out"):
            read_image_folder(tmp_path, 8)
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(DataError, match="must fit in memory, got 1 of 50000 x 50000"):
        read_image_folder(tmp_path, 50_000)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'batchwright\[images\]'"):
        read_image_folder(tmp_path, 8)
