"""A cap on what leaves over one link."""

from __future__ import annotations

import threading
import time


class Pacer:
    """Spreads what several threads send over time, `bytes_per_second` in all."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free = 0.0
        self._closed = threading.Event()

    def wait(self, count: int) -> None:
        """Return when `count` bytes may leave; at once after `close`, or uncapped."""
        if self._rate is None:
            return
        with self._lock:
            start = max(self._free, time.monotonic())
            self._free = start + count / self._rate
        if (delay := start - time.monotonic()) > 0:
            self._closed.wait(delay)

    def close(self) -> None:
        """Let everybody go."""
        self._closed.set()
