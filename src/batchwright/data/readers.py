"""Plain data files as arrays: IDX, NumPy archives of images, tables of numbers, UCI Adult and text; nothing is unpickled.

Every reader takes a file plain or gzipped, whatever its name says, and also finds ``name.gz`` for ``name`` and the other
way about. Whatever is wrong with a file is a `DataError` of one line that names it.
"""

import gzip
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from batchwright.core.errors import DataError

DATA_VARIABLE = "BATCHWRIGHT_DATA"
GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK"
# What NumPy and the standard library raise on archives that are damaged or of a kind they do not know.
ARCHIVE_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
)
# The third byte of an IDX file; all numbers in it are big-endian.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
ADULT_NUMERIC = {
    0: "age",
    2: "fnlwgt",
    4: "education-num",
    10: "capital-gain",
    11: "capital-loss",
    12: "hours-per-week",
}
ADULT_CATEGORICAL = {
    1: "workclass",
    3: "education",
    5: "marital-status",
    6: "occupation",
    7: "relationship",
    8: "race",
    9: "sex",
    13: "native-country",
}
ADULT_LABELS = {"<=50K": 0, ">50K": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdultTable:
    """UCI Adult as numbers.

    Attributes:
        train_inputs: Six numeric columns as they stand, then one 0/1 column a category that the train part has.
        train_labels: 1 where the income is above 50,000 dollars a year.
        test_inputs: The same columns of the test part.
        test_labels: Labels of the test part.
        columns: Name of each input column, ``age`` or ``workclass=Private``.
        num_numeric: Number of leading numeric columns.
    """

    train_inputs: Float[np.ndarray, "N D"]
    train_labels: Int[np.ndarray, " N"]
    test_inputs: Float[np.ndarray, "M D"]
    test_labels: Int[np.ndarray, " M"]
    columns: tuple[str, ...]
    num_numeric: int


def resolve_data_root(data_root: Path | None = None) -> Path:
    """The folder of real data sets: the argument, or else the environment variable ``BATCHWRIGHT_DATA``.

    Raises:
        DataError: If neither is given, or the folder is not there.
    """
    found = find_data_root(data_root)
    if found is None:
        raise DataError(
            f"data root must be given for a task on real data, got neither --data-root nor {DATA_VARIABLE}; "
            "name the folder that holds the data sets with one of them"
        )
    if not found.is_dir():
        source = "--data-root" if data_root is not None else DATA_VARIABLE
        raise DataError(f"{source} must be a folder that is there, got {str(found)!r}")
    return found


def find_data_root(data_root: Path | None = None) -> Path | None:
    """As `resolve_data_root`, but None where neither is given, and without a look at the disk."""
    if data_root is not None:
        return data_root
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else None


def read_idx(path: Path) -> Shaped[np.ndarray, "..."]:
    """An array of the IDX format of MNIST, in the machine's byte order.

    Returns:
        The array with the shape and type that its header states, such as uint8 ``(60000, 28, 28)``.

    Raises:
        DataError: If the file is missing, damaged, no IDX file, or of another length than its header states.
    """
    content = _read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise DataError(
            f"an IDX file must begin with two zero bytes and a known type, got {content[:4].hex(' ') or 'nothing'} in {path}"
        )
    num_axes, offset = content[3], 4 + 4 * content[3]
    if len(content) < offset:
        raise DataError(
            f"an IDX file of {num_axes} axes must have {offset} bytes of header, got {len(content)} in {path}"
        )
    shape = struct.unpack(f">{num_axes}I", content[4:offset])
    kind = np.dtype(IDX_TYPES[content[2]])
    expected = kind.itemsize * math.prod(shape)
    if len(content) - offset != expected:
        raise DataError(
            f"an IDX file of shape {shape} must hold {expected} bytes of data, got {len(content) - offset} in {path}; "
            "fetch it again"
        )
    return np.frombuffer(content, kind, offset=offset).reshape(shape).astype(kind.newbyteorder("="))


def read_npz_images(
    path: Path, *, images: str = "x", labels: str = "y"
) -> tuple[UInt8[np.ndarray, "N H W C"], Int[np.ndarray, " N"]]:
    """Images and their classes from a NumPy archive.

    Args:
        path: An ``.npz`` file.
        images: Name of the uint8 array of images, rows by columns by channels.
        labels: Name of the array of classes.

    Returns:
        The images as they stand, and the classes as int64.

    Raises:
        DataError: If the file is missing or damaged, an array is not there, or it has another type or shape.
    """
    content = _read_bytes(path)
    if not content.startswith(ZIP_MAGIC):
        raise DataError(
            f"{path} must be an .npz archive, got a file that begins with {content[:4].hex(' ') or 'nothing'}"
        )
    try:
        # Pickled arrays could run code; NumPy refuses them with a ValueError.
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            names = list(archive.files)
            arrays = {name: archive[name] for name in (images, labels) if name in names}
    except ARCHIVE_ERRORS as error:
        raise DataError(
            f"{path} must be an undamaged .npz archive without objects, got {_first_line(error)}"
        ) from error
    for name in (images, labels):
        if name not in arrays:
            raise DataError(f"{path} must hold an array {name!r}, got {', '.join(names) or 'none'}")
    pixels, classes = arrays[images], arrays[labels]
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise DataError(f"{images!r} must be uint8 of shape (N, H, W, C), got {pixels.dtype} {pixels.shape} in {path}")
    if classes.shape != pixels.shape[:1] or classes.dtype.kind not in "iu":
        raise DataError(
            f"{labels!r} must hold one whole number for each of the {len(pixels)} images, "
            f"got {classes.dtype} {classes.shape} in {path}"
        )
    return pixels, classes.astype(np.int64)


def read_table(path: Path) -> Float[np.ndarray, "N D"]:
    """A table of numbers, one example a line, parted by white space or by commas; ``#`` begins a comment.

    Raises:
        DataError: If the file is missing, damaged or empty, a field is not a finite number, or the lines differ in length.
    """
    lines = [line for line in read_text(path).splitlines() if line.split("#")[0].strip()]
    if not lines:
        raise DataError(f"a table must have at least one line of numbers, got none in {path}")
    try:
        table = np.loadtxt(lines, delimiter="," if "," in lines[0] else None, ndmin=2, dtype=np.float64)
    except ValueError as error:
        raise DataError(
            f"a table must hold numbers, as many in each line, got {_first_line(error)} in {path}"
        ) from error
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise DataError(
            f"a table must hold finite numbers, got {lines[row].strip()[:80]!r} in line {row + 1} of {path}"
        )
    return table


def read_adult(train_path: Path, test_path: Path) -> AdultTable:
    """The two parts of UCI Adult, six numeric columns and eight categorical ones as 0/1 columns.

    The categories are those of the train part, in alphabetical order. A missing value (``?``), or a category that only the
    test part has, is zero in all columns of its block, so no example is left out.

    Raises:
        DataError: If a file is missing or damaged, or a line does not have the 15 fields of Adult.
    """
    train, test = _adult_rows(train_path), _adult_rows(test_path)
    categories = {position: sorted({row[position] for row in train} - {"?"}) for position in ADULT_CATEGORICAL}
    names = [f"{ADULT_CATEGORICAL[position]}={value}" for position, values in categories.items() for value in values]
    return AdultTable(
        train_inputs=_adult_inputs(train, categories, train_path),
        train_labels=_adult_labels(train, train_path),
        test_inputs=_adult_inputs(test, categories, test_path),
        test_labels=_adult_labels(test, test_path),
        columns=(*ADULT_NUMERIC.values(), *names),
        num_numeric=len(ADULT_NUMERIC),
    )


def read_text(path: Path) -> str:
    """A UTF-8 text, plain or gzipped.

    Raises:
        DataError: If the file is missing, damaged, or not UTF-8.
    """
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"a text must be UTF-8, got byte {error.object[error.start]:#04x} at {error.start} in {path}"
        ) from error


def _adult_rows(path: Path) -> list[list[str]]:
    rows = [[field.strip() for field in line.split(",")] for line in read_text(path).splitlines() if line.strip()]
    if rows and rows[0][0].startswith("|"):  # the comment that begins the test part as UCI has it
        rows = rows[1:]
    if not rows:
        raise DataError(f"a part of Adult must have at least one line, got none in {path}")
    for number, row in enumerate(rows, start=1):
        if len(row) != 15:
            raise DataError(f"a line of Adult must have 15 fields, got {len(row)} in row {number} of {path}")
    return rows


def _adult_inputs(
    rows: Sequence[Sequence[str]], categories: dict[int, list[str]], path: Path
) -> Float[np.ndarray, "N D"]:
    try:
        blocks = [np.array([[float(row[position]) for position in ADULT_NUMERIC] for row in rows])]
    except ValueError as error:
        raise DataError(
            f"{', '.join(ADULT_NUMERIC.values())} must be numbers, got {_first_line(error)} in {path}"
        ) from error
    for position, values in categories.items():
        column = np.array([row[position] for row in rows])
        blocks.append((column[:, None] == np.array(values)[None, :]).astype(np.float64))
    return np.concatenate(blocks, axis=1)


def _adult_labels(rows: Sequence[Sequence[str]], path: Path) -> Int[np.ndarray, " N"]:
    labels = [row[14].removesuffix(".") for row in rows]  # the test part ends its labels with a full stop
    for number, label in enumerate(labels, start=1):
        if label not in ADULT_LABELS:
            raise DataError(f"a label of Adult must be <=50K or >50K, got {label!r} in row {number} of {path}")
    return np.array([ADULT_LABELS[label] for label in labels], dtype=np.int64)


def _read_bytes(path: Path) -> bytes:
    other = path.with_name(path.name.removesuffix(".gz")) if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    found = next((each for each in (path, other) if each.is_file()), None)
    if found is None:
        raise DataError(f"data file must be there, got {str(path)!r}, which is not; check the data root")
    try:
        content = found.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{found} must be a complete file that can be read, got {_first_line(error)}; fetch it again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
