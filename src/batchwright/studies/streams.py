"""Independent random streams by name, so that no cell's numbers depend on which cells ran before it."""

import hashlib

import torch


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator of its own for each seed and sequence of names.

    Example:
        >>> bool(torch.equal(torch.rand(2, generator=stream(0, "a")), torch.rand(2, generator=stream(0, "a"))))
        True
    """
    text = "/".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
