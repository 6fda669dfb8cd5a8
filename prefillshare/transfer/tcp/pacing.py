"""A cap on what leaves over one link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pacer:
    """Spreads what several threads send over time, `bytes_per_second` in all."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._changed = threading.Condition()
        self._free = 0.0

    def wait(self, count: int, wanted: Callable[[], bool]) -> None:
        """Return when `count` bytes may leave, or are not `wanted` any more."""
        if self._rate is None:
            return
        with self._changed:
            start = max(self._free, time.monotonic())
            self._free = start + count / self._rate
            while wanted() and (delay := start - time.monotonic()) > 0:
                self._changed.wait(delay)

    def wake(self) -> None:
        """Have those who wait look again whether they want to."""
        with self._changed:
            self._changed.notify_all()
