"""Texts of billions of tokens as sequences: binary files of 16-bit tokens, read where they lie.

The format is that of the public NanoGPT speed runs: a header of 256 little-endian 32-bit integers, of which the first is
20240520, the second the version, 1, and the third the number of tokens; then the tokens as unsigned 16-bit integers. The
files are mapped, not loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from batchwright.core.errors import DataError

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFiles:
    """Consecutive sequences of a text in one or more files; none goes over the end of a file.

    Attributes:
        paths: In the order of the text.
        sequence_length: Tokens that are predicted in a sequence; each brings one token more, with which the next begins.
        num_symbols: Every token is below it.
    """

    paths: Sequence[Path]
    sequence_length: int
    num_symbols: int
    _files: list[np.memmap] = field(init=False, repr=False)
    _ends: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_files", [map_tokens(path) for path in self.paths])
        counts = [(len(file) - 1) // self.sequence_length for file in self._files]
        object.__setattr__(self, "_ends", np.cumsum(counts, dtype=np.int64))
        if not self.paths or self._ends[-1] < 1:
            names = ", ".join(str(path) for path in self.paths) or "no file"
            raise DataError(
                f"token files must hold a sequence of {self.sequence_length} tokens and one more, got {names}"
            )

    def __len__(self) -> int:
        """Sequences."""
        return int(self._ends[-1])

    def read(self, first: int, number: int) -> Int[np.ndarray, "B T1"]:
        """Sequences ``first`` to ``first + number``, ``sequence_length + 1`` tokens each; after the last comes the first again.

        Raises:
            DataError: If a token is not below ``num_symbols``.
        """
        rows = [self._row((first + index) % len(self)) for index in range(number)]
        found = np.stack(rows).astype(np.int64)
        if found.size and found.max() >= self.num_symbols:
            raise DataError(
                f"a token must be below {self.num_symbols}, got {found.max()} in sequences {first} to {first + number}; "
                "the files are of another vocabulary"
            )
        return found

    def _row(self, index: int) -> np.ndarray:
        place = int(np.searchsorted(self._ends, index, side="right"))
        begin = (index - (int(self._ends[place - 1]) if place else 0)) * self.sequence_length
        return np.asarray(self._files[place][begin : begin + self.sequence_length + 1])


def find_token_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that fit a pattern, by name.

    Raises:
        DataError: If there is none.
    """
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if not found:
        raise DataError(
            f"{folder} must hold token files {pattern}, got none; name their folder's folder with --data-root"
        )
    return found


def map_tokens(path: Path) -> np.memmap:
    """The tokens of one file, mapped.

    Raises:
        DataError: If it is missing, is no token file, or is of another length than its header states.
    """
    try:
        header = np.fromfile(path, dtype="<i4", count=256)
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} must be a file that can be read, got {error}") from error
    if len(header) < 256 or header[0] != MAGIC or header[1] != VERSION:
        start = ", ".join(map(str, header[:2])) or "nothing"
        raise DataError(
            f"a token file must begin with {MAGIC}, {VERSION} and have a header of 1024 bytes, got {start} in {path}"
        )
    number = int(header[2])
    if number < 1 or size != HEADER_BYTES + 2 * number:
        raise DataError(
            f"a file of {number} tokens must have {HEADER_BYTES + 2 * number} bytes, got {size} in {path}; fetch it again"
        )
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(number,))
