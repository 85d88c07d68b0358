"""A device whose memory runs out past a limit, on any machine: for trying what a program does then."""

from typing import Any

import torch

from batchwright.measure.memory_tracker import MemoryTracker


class SimulatedDevice(MemoryTracker):
    """A context in which an operation whose result takes the live tensors past a limit raises as a device without room does.

    Only tensors made inside the context count.

    Args:
        limit_bytes: Most bytes of live tensors.

    Attributes:
        num_failed: Operations that found no room.

    Example:
        >>> with SimulatedDevice(100) as device:
        ...     kept = torch.ones(20)
        ...     try:
        ...         torch.ones(20)
        ...     except torch.OutOfMemoryError:
        ...         print("no room")
        no room
        >>> device.num_failed
        1
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__([])
        self.limit_bytes, self.num_failed = limit_bytes, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and fail where its result does not fit."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if self.timeline.pop() > self.limit_bytes:
            self.num_failed += 1
            raise torch.OutOfMemoryError(
                f"an operation needs more than the {self.limit_bytes} bytes of a simulated device"
            )
        return result
