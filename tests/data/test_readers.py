"""Readers against files written by hand, and against known facts of the real data sets."""

import gzip
import hashlib
import struct

import numpy as np
import pytest

from batchwright.core.errors import DataError
from batchwright.data.readers import read_adult, read_idx, read_npz_images, read_table, read_text, resolve_data_root

ADULT_LINE = (
    "39, {work}, 77516, Bachelors, 13, Never-married, {job}, Not-in-family, White, Male, 2174, 0, 40, {land}, {label}"
)


def idx_bytes(array: np.ndarray, code: int) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, "u1"), (9, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_of_every_type_comes_back_as_it_was_written(tmp_path, code, dtype, compressed):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    content = idx_bytes(array, code)
    (tmp_path / "a.idx").write_bytes(gzip.compress(content) if compressed else content)
    found = read_idx(tmp_path / "a.idx")
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def test_a_file_is_found_with_and_without_its_gz_ending(tmp_path):
    array = np.arange(5, dtype="u1")
    (tmp_path / "plain").write_bytes(idx_bytes(array, 8))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(array, 8)))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain.gz"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"must begin with two zero bytes and a known type, got nothing in .*bad"),
        (b"\x89PNG", r"must begin with two zero bytes and a known type, got 89 50 4e 47"),
        (b"\0\0\x07\x01\0\0\0\x01\0", "a known type, got 00 00 07 01"),
        (b"\0\0\x08\x03\0\0\0\x01", r"of 3 axes must have 16 bytes of header, got 8"),
        (b"\0\0\x08\x01\0\0\0\x05abc", r"of shape \(5,\) must hold 5 bytes of data, got 3 in .*bad; fetch it again"),
        (b"\0\0\x08\x01\0\0\0\x02abc", r"of shape \(2,\) must hold 2 bytes of data, got 3"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "must hold .* bytes of data, got 0"),
    ],
)
def test_a_wrong_idx_file_is_named_with_what_is_wrong(tmp_path, content, message):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "bad")


@pytest.mark.parametrize("reader", [read_idx, read_npz_images, read_table, read_text])
def test_a_missing_file_is_named(tmp_path, reader):
    with pytest.raises(DataError, match=r"data file must be there, got '.*nowhere', which is not; check the data root"):
        reader(tmp_path / "nowhere")


@pytest.mark.parametrize("reader", [read_idx, read_npz_images, read_table, read_text])
def test_a_truncated_gzip_file_is_named(tmp_path, reader):
    whole = gzip.compress(np.random.default_rng(0).bytes(10_000))
    (tmp_path / "cut.gz").write_bytes(whole[:5000])
    with pytest.raises(DataError, match=r"cut.gz must be a complete file that can be read, got .*; fetch it again"):
        reader(tmp_path / "cut.gz")


def test_a_damaged_gzip_file_is_named(tmp_path):
    whole = bytearray(gzip.compress(b"0123456789" * 1000))
    whole[-6] ^= 0xFF  # in the checksum
    (tmp_path / "bad.gz").write_bytes(whole)
    with pytest.raises(DataError, match=r"must be a complete file that can be read, got CRC check failed"):
        read_text(tmp_path / "bad.gz")


def test_npz_images_come_back_with_int64_classes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", pictures=images, y=np.array([2, 0, 1], dtype=np.uint8))
    found, classes = read_npz_images(tmp_path / "a.npz", images="pictures")
    np.testing.assert_array_equal(found, images)
    assert classes.dtype == np.int64
    assert classes.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 4, 4, 3), np.uint8)}, "must hold an array 'y', got x"),
        (
            {"x": np.zeros((2, 4, 4, 3), np.float32), "y": np.zeros(2, int)},
            r"'x' must be uint8 of shape \(N, H, W, C\), got float32",
        ),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros(2, int)}, r"'x' must be uint8 .* got uint8 \(2, 4, 4\)"),
        (
            {"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.zeros(3, int)},
            r"one whole number for each of the 2 images, got int64 \(3,\)",
        ),
        (
            {"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.zeros(2)},
            "one whole number for each of the 2 images, got float64",
        ),
    ],
)
def test_an_archive_of_the_wrong_arrays_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_npz_images(tmp_path / "a.npz")


def test_an_archive_with_pickled_objects_is_refused_unopened(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object), y=np.zeros(1, int))
    with pytest.raises(
        DataError, match=r"an undamaged .npz archive without objects, got Object arrays cannot be loaded"
    ):
        read_npz_images(tmp_path / "a.npz")


def test_a_damaged_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4, 3), np.uint8), y=np.zeros(2, int))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"an undamaged .npz archive without objects, got File is not a zip file"):
        read_npz_images(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"must be an .npz archive, got a file that begins with 93 4e 55 4d"):
        read_npz_images(tmp_path / "b.npy")


@pytest.mark.parametrize(
    "text", ["1 2.5 -3\n4 5e1 6\n", "1,2.5,-3\n4, 5e1, 6\n", "# a comment\n\n  1\t2.5  -3\n4 5e1 6 # end\n\n"]
)
def test_tables_by_white_space_and_by_comma_are_the_same(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.txt", "b.txt.gz"):
        np.testing.assert_array_equal(read_table(tmp_path / name), [[1.0, 2.5, -3.0], [4.0, 50.0, 6.0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have at least one line of numbers, got none"),
        ("# nothing\n\n", "must have at least one line of numbers, got none"),
        ("1 2\n3\n", "must hold numbers, as many in each line, got .*number of columns changed"),
        ("1 2\n3 red\n", "must hold numbers, as many in each line, got could not convert string 'red'"),
        ("1 2\n3 nan\n", "must hold finite numbers, got '3 nan' in line 2 of"),
    ],
)
def test_a_wrong_table_is_named_with_what_is_wrong(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "a.txt")


def test_a_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match="must be UTF-8, got byte 0xff at 3 in"):
        read_text(tmp_path / "a.txt")


@pytest.fixture
def adult_files(tmp_path):
    lines = [
        ADULT_LINE.format(work="Private", job="Sales", land="Cuba", label="<=50K"),
        ADULT_LINE.format(work="?", job="Sales", land="?", label=">50K"),
        ADULT_LINE.format(work="Local-gov", job="Sales", land="Cuba", label=">50K"),
    ]
    (tmp_path / "train").write_text("\n".join(lines) + "\n\n")
    lines = [ADULT_LINE.format(work="Never-worked", job="Sales", land="Cuba", label=">50K.")]
    (tmp_path / "test").write_text("|1x3 Cross validator\n" + "\n".join(lines) + "\n")
    return tmp_path / "train", tmp_path / "test"


def test_adult_takes_its_categories_from_the_train_part(adult_files):
    table = read_adult(*adult_files)
    assert table.columns[:8] == (
        *("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"),
        *("workclass=Local-gov", "workclass=Private"),
    )
    assert table.train_inputs[0, :6].tolist() == [39, 77516, 13, 2174, 0, 40]
    assert table.train_inputs[:, 6:8].tolist() == [[0, 1], [0, 0], [1, 0]]  # a missing value is zero in its block
    assert table.train_inputs[:, -1].tolist() == [1, 0, 1]
    assert table.test_inputs[0, 6:8].tolist() == [0, 0]  # a category that train does not have
    assert table.train_labels.tolist() == [0, 1, 1]
    assert table.test_labels.tolist() == [1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "39, Private",
            "old, Private",
            "age, fnlwgt, .* must be numbers, got could not convert string to float: 'old'",
        ),
        (", <=50K", "", "must have 15 fields, got 14 in row 1 of"),
        ("<=50K", "rich", "must be <=50K or >50K, got 'rich' in row 1 of"),
    ],
)
def test_a_wrong_adult_file_is_named_with_what_is_wrong(adult_files, old, new, message):
    train, test = adult_files
    train.write_text(train.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        read_adult(train, test)


def test_an_empty_adult_file_is_refused(adult_files):
    adult_files[1].write_text("\n")
    with pytest.raises(DataError, match="must have at least one line, got none"):
        read_adult(*adult_files)


def test_data_root_is_the_argument_then_the_variable(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("BATCHWRIGHT_DATA", str(other))
    assert resolve_data_root(tmp_path) == tmp_path
    assert resolve_data_root() == other
    monkeypatch.setenv("BATCHWRIGHT_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"BATCHWRIGHT_DATA must be a folder that is there, got '.*gone'"):
        resolve_data_root()
    with pytest.raises(DataError, match=r"--data-root must be a folder that is there, got '.*away'"):
        resolve_data_root(tmp_path / "away")
    monkeypatch.delenv("BATCHWRIGHT_DATA")
    with pytest.raises(DataError, match="got neither --data-root nor BATCHWRIGHT_DATA"):
        resolve_data_root()


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("folder", "mean", "std", "digest"),
    [
        ("mnist", 0.1307, 0.3081, "bbce2765"),
        ("fashion-mnist", 0.2860, 0.3530, "ff2f5a96"),
    ],
)
def test_the_real_idx_files_have_their_published_mean_deviation_and_blob_id(data_root, folder, mean, std, digest):
    images = read_idx(data_root / folder / "train-images-idx3-ubyte.gz")
    classes = read_idx(data_root / folder / "train-labels-idx1-ubyte.gz")
    assert images.shape == (60000, 28, 28)
    assert classes.shape == (60000,)
    assert round(float(images.mean(dtype=np.float64)) / 255, 4) == mean
    assert round(float(images.std(dtype=np.float64)) / 255, 4) == std
    # git's id of the uncompressed file, which is header and pixels
    content = idx_bytes(images, 8)
    assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest().startswith(digest)
    counts = np.bincount(classes)
    assert (counts.min(), counts.max()) == ((5421, 6742) if folder == "mnist" else (6000, 6000))


@pytest.mark.shared_data
def test_the_real_cifar_test_images_have_their_checksum(data_root):
    images, classes = read_npz_images(data_root / "cifar10/cifar10-test-5k.npz")
    assert (
        hashlib.sha256(images.tobytes())
        .hexdigest()
        .startswith("167acb96f0bc9686b67fa6680217fb95f7b8379a71e5fb2bcd194a4cca9667e2")
    )
    assert np.bincount(classes).tolist() == [500] * 10


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("concrete/data.txt", 1030, 9),
        ("energy/data.txt", 768, 9),
        ("power-plant/data.txt", 9568, 5),
        ("protein/data.txt.gz", 45730, 10),
        ("wine-quality/winequality-red.csv", 1599, 12),
        ("wine-quality/winequality-white.csv", 4898, 12),
        ("yacht/data.txt", 308, 7),
    ],
)
def test_the_real_tables_have_their_known_sizes(data_root, name, rows, columns):
    assert read_table(data_root / "uci" / name).shape == (rows, columns)


@pytest.mark.shared_data
def test_the_real_adult_has_its_known_counts(data_root):
    table = read_adult(data_root / "uci/adult/adult.data.gz", data_root / "uci/adult/adult.test.gz")
    # 8 + 16 + 7 + 14 + 6 + 5 + 2 + 41 categories beside the missing ones
    assert table.train_inputs.shape == (32561, 6 + 99)
    assert table.test_inputs.shape == (16281, 6 + 99)
    assert np.bincount(table.train_labels).tolist() == [24720, 7841]
    for inputs, rows_with_missing in ((table.train_inputs, 2399), (table.test_inputs, 1221)):
        assert int((inputs[:, 6:].sum(axis=1) < 8).sum()) == rows_with_missing


@pytest.mark.shared_data
def test_the_real_text_has_its_known_length_and_alphabet(data_root):
    text = read_text(data_root / "tinyshakespeare/input.txt")
    assert len(text) == 1_115_394
    assert len(set(text)) == 65
