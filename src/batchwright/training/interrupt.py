"""Ctrl-C and SIGTERM ask the loop to stop at the next step; a second one stops at once."""

import math
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Context in which the first SIGINT or SIGTERM sets `asked` and the second raises `KeyboardInterrupt`.

    Outside the main thread, where Python takes no signals, it does nothing.

    Args:
        settle_s: Signals that follow the first within so many seconds are the same request.
    """

    def __init__(self, *, settle_s: float = 0.0) -> None:
        self.asked = False
        self._settle_s, self._first = settle_s, -math.inf
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self._previous[name] = signal.signal(name, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, handler in self._previous.items():
            signal.signal(name, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._first = True, now
        elif now - self._first >= self._settle_s:
            raise KeyboardInterrupt
