"""Labelled images come back from their four files, and files that do not go together are told."""

import struct
from pathlib import Path

import numpy as np
import pytest

from batchwright.core.errors import DataError
from batchwright.data.idx_images import read_idx_images


def write(path: Path, array: np.ndarray) -> None:
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def write_all(folder: Path, num_labels: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (5, 4, 3), dtype="u1"),
        "train-labels-idx1-ubyte": rng.integers(0, 10, num_labels, dtype="u1"),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (2, 4, 3), dtype="u1"),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 2, dtype="u1"),
    }
    for name, array in arrays.items():
        write(folder / name, array)
    return arrays


def test_images_and_classes_come_back_in_their_order(tmp_path):
    written = list(write_all(tmp_path).values())
    found = read_idx_images(tmp_path)
    for got, expected in zip(found, written, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert [array.dtype for array in found] == [np.uint8, np.int64, np.uint8, np.int64]


def test_images_without_a_class_each_are_told(tmp_path):
    write_all(tmp_path, num_labels=4)
    with pytest.raises(DataError, match=r"must be \(N, H, W\) and \(N,\), got \(5, 4, 3\) and \(4,\) in"):
        read_idx_images(tmp_path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        read_idx_images(tmp_path)
