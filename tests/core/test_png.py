"""PNG files against another reader, and layouts of sample grids against plain indexing."""

import io

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.core.png import png_bytes, write_png


@pytest.mark.parametrize("channels", [1, 3])
def test_another_reader_sees_the_pixels_that_were_written(channels, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 12, channels), dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels)
    content = (tmp_path / "a.png").read_bytes()
    assert content == png_bytes(pixels)
    with image.open(io.BytesIO(content)) as read:
        read.load()
        assert read.mode == {1: "L", 3: "RGB"}[channels]
        assert np.array_equal(np.asarray(read).reshape(pixels.shape), pixels)


def test_what_is_no_picture_is_refused():
    with pytest.raises(InputError, match=r"1 or 3 channels, got shape \(2, 2, 2\)"):
        png_bytes(np.zeros((2, 2, 2), dtype=np.uint8))
    with pytest.raises(InputError, match="at least one"):
        png_bytes(np.zeros((0, 2, 1), dtype=np.uint8))


def test_the_same_picture_gives_the_same_bytes():
    pixels = torch.arange(48, dtype=torch.uint8).reshape(4, 4, 3).numpy()
    assert png_bytes(pixels) == png_bytes(pixels.copy(order="F"))
