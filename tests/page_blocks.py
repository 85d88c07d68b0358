"""Runs the Python blocks of a page of the docs one after the other, as a reader would who copies them into one file."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def run_blocks(page: str) -> tuple[dict[str, Any], int]:
    """The names that the blocks of ``docs/page`` leave, and how many blocks there are."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {"__name__": page}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    return names, len(blocks)
