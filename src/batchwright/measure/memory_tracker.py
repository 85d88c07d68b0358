"""Bytes of live tensors during a piece of PyTorch code, operation by operation.

Every tensor that an operation returns is counted by its storage until that storage is freed, so views cost nothing and saved
activations, gradients and temporaries count as long as they live. Kernels' inner scratch space is not seen. This is the one
place that touches `torch.utils._python_dispatch`, which PyTorch does not document.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryTracker(TorchDispatchMode):
    """A context in which `timeline` grows by the bytes alive after each operation.

    Args:
        alive: Tensors, nested as they come, that are alive already and count.

    Attributes:
        timeline: Bytes alive after each operation, its inputs and outputs included.

    Example:
        >>> with MemoryTracker([]) as tracker:
        ...     kept = torch.ones(4) * 2
        >>> tracker.timeline
        [16, 32]
    """

    def __init__(self, alive: Any) -> None:
        super().__init__()
        self.timeline: list[int] = []
        self._bytes = 0
        # A storage keeps its Python object as long as it lives, so the object's id names it.
        self._live: dict[int, tuple[weakref.ref, int]] = {}
        self._add(alive)

    @property
    def peak_bytes(self) -> int:
        """Most bytes alive at once; what was alive on entry where no operation ran."""
        return max(self.timeline, default=self._bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returned."""
        result = func(*args, **(kwargs or {}))
        # Flattening costs more than all the rest, and most operations return one tensor.
        if isinstance(result, Tensor) and result.layout == torch.strided:
            self._add_storage(result.untyped_storage())
        else:
            self._add(result)
        self.timeline.append(self._bytes)
        return result

    def _add(self, values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                for part in _strided(value):
                    self._add_storage(part.untyped_storage())

    def _add_storage(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._live:
            return
        size = storage.nbytes()
        # The bytes are subtracted when the storage dies, also after the context, where nobody looks any more.
        self._live[key] = (weakref.ref(storage, lambda _: self._drop(key)), size)
        self._bytes += size

    def _drop(self, key: int) -> None:
        self._bytes -= self._live.pop(key)[1]


def _strided(tensor: Tensor) -> list[Tensor]:
    """The tensor itself, or the parts of a sparse one, which has no storage of its own."""
    if tensor.layout == torch.strided:
        return [tensor]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return []
