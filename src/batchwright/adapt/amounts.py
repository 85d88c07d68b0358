"""Counts as people write them: ``50k``, ``1.5M``, ``10.8B``; and schedules of them, ``0:64 50k:128 1M:256``."""

from batchwright.core.errors import InputError

SUFFIXES = {"k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


def parse_count(name: str, text: str) -> int:
    """A whole number from ``64``, ``50k``, ``1.5M`` or ``10.8B``; thousand, million, billion (``B`` or ``G``), trillion (``T``).

    Raises:
        InputError: If it is none.

    Example:
        >>> parse_count("start", "1.5M")
        1500000
    """
    word = text.strip()
    factor = SUFFIXES.get(word[-1:].lower(), 1)
    digits = word[:-1] if factor > 1 else word
    try:
        number = float(digits) * factor
        count = round(number)
    except (ValueError, OverflowError):
        count, number = -1, 0.0
    # 10.8B is not exact in binary, so a whole number is one to within rounding.
    if count < 0 or abs(count - number) > 1e-6 * max(1.0, number) or "_" in digits:
        raise InputError(f"{name} must be a whole number such as 64, 50k or 1.5M, got {text!r}")
    return count


def parse_schedule(name: str, text: str) -> tuple[tuple[int, int], ...]:
    """Starts and batch sizes, from ``"0:64 50k:128 1M:256"``.

    Raises:
        InputError: If an entry is not ``start:batch_size``, the starts do not increase, or a size is below 1.

    Example:
        >>> parse_schedule("schedule", "0:64 50k:128")
        ((0, 64), (50000, 128))
    """
    entries = text.replace(",", " ").split()
    if not entries:
        raise InputError(
            f"{name} must hold at least one start:batch_size, got {text!r}; for instance '0:64 50k:128 1M:256'"
        )
    found = []
    for entry in entries:
        start, colon, size = entry.partition(":")
        if not colon or not start or not size:
            raise InputError(
                f"{name} must be made of start:batch_size, got {entry!r}; for instance '0:64 50k:128 1M:256'"
            )
        found.append((parse_count(f"{name} start", start), parse_count(f"{name} batch size", size)))
    for i, (begin, number) in enumerate(found):
        if number < 1:
            raise InputError(f"{name} must hold batch sizes of at least 1, got {entries[i]!r}")
        if i and begin <= found[i - 1][0]:
            raise InputError(f"{name} must have increasing starts, got {entries[i]!r} after {entries[i - 1]!r}")
    return tuple(found)
