"""Token files: what is read is what was written, and what is no token file is refused."""

from pathlib import Path

import numpy as np
import pytest

from batchwright.core.errors import DataError
from batchwright.data.token_files import MAGIC, VERSION, TokenFiles, find_token_files, map_tokens


def write(path: Path, tokens, magic: int = MAGIC, version: int = VERSION, number: int | None = None) -> Path:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(tokens) if number is None else number
    path.write_bytes(header.tobytes() + np.asarray(tokens, dtype="<u2").tobytes())
    return path


def test_sequences_follow_one_another_and_overlap_by_one_token(tmp_path):
    paths = [write(tmp_path / "a_1.bin", range(10)), write(tmp_path / "a_2.bin", range(100, 109))]
    text = TokenFiles(paths=paths, sequence_length=4, num_symbols=200)
    # Ten tokens hold two sequences of 4 and the token after; the tenth is left over, as the files are not joined.
    assert len(text) == 4
    expected = [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [100, 101, 102, 103, 104], [104, 105, 106, 107, 108]]
    assert text.read(0, 4).tolist() == expected
    assert text.read(3, 2).tolist() == [expected[3], expected[0]]
    assert text.read(1, 1).dtype == np.int64
    assert find_token_files(tmp_path, "a_*.bin") == paths


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"magic": 1}, "must begin with 20240520, 1"),
        ({"version": 2}, "must begin with 20240520, 1"),
        ({"number": 11}, "of 11 tokens must have 1046 bytes, got 1044"),
        ({"number": -1}, "of -1 tokens"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        map_tokens(write(tmp_path / "a.bin", range(10), **settings))


def test_files_that_are_missing_short_or_of_another_vocabulary_are_refused(tmp_path):
    with pytest.raises(DataError, match="can be read"):
        map_tokens(tmp_path / "none.bin")
    (tmp_path / "short.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match="got nothing"):
        map_tokens(tmp_path / "short.bin")
    path = write(tmp_path / "a.bin", [1, 2, 70, 3])
    with pytest.raises(DataError, match="a sequence of 4 tokens and one more"):
        TokenFiles(paths=[path], sequence_length=4, num_symbols=99)
    with pytest.raises(DataError, match="no file"):
        TokenFiles(paths=[], sequence_length=4, num_symbols=99)
    with pytest.raises(DataError, match="below 70, got 70"):
        TokenFiles(paths=[path], sequence_length=3, num_symbols=70).read(0, 1)
    with pytest.raises(DataError, match=r"b_\*.bin"):
        find_token_files(tmp_path, "b_*.bin")
