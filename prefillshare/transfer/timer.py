"""One thread that calls functions when they are due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
# Fewer cancelled calls than that are not worth a look.
_FEW = 64


class Due:
    """A call to come; `cancel` is a no-op once it has begun."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not call."""
        self.call = None


class Timer:
    """Calls functions at their time, one after the other, on one thread.

    They should be quick; what they raise is logged. Seconds are those of
    `time.monotonic`. The thread is there from `start` on, so that a process that may
    not have another one learns that before anything counts on a call.
    """

    def __init__(self, name: str = "kv-timer") -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Due]] = []
        self._order = itertools.count()
        self._sweep_at = _FEW
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to call; `RuntimeError` if there is no thread for it."""
        self._thread.start()

    def after(self, seconds: float, call: Callable[[], None]) -> Due:
        """Call once in so many seconds; never after `close`."""
        due = Due(time.monotonic() + seconds, call)
        with self._changed:
            if self._closed:
                return due
            if len(self._heap) >= self._sweep_at:
                self._sweep()
            heapq.heappush(self._heap, (due.when, next(self._order), due))
            # A thread that wakes for nothing takes the interpreter from others.
            if self._heap[0][2] is due:
                self._changed.notify_all()
        return due

    def close(self) -> None:
        """Forget all calls and end the thread; from within a call, soon after it."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify_all()
        here = self._thread is threading.current_thread()
        if not here and self._thread.ident is not None:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Calls that are kept, those that were cancelled among them."""
        with self._changed:
            return len(self._heap)

    def _sweep(self) -> None:
        """Forget cancelled calls, so seldom that it costs each call little.

        Transfers end long before their time-outs: thousands a second would make
        millions of entries until the first is due.
        """
        self._heap = [entry for entry in self._heap if entry[2].call is not None]
        heapq.heapify(self._heap)
        self._sweep_at = 2 * len(self._heap) + _FEW

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception:
                _log.exception("a timed call failed")
            # What it holds is not held until the next one.
            del call

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                while self._heap and self._heap[0][2].call is None:
                    heapq.heappop(self._heap)
                if not self._heap:
                    self._changed.wait()
                    continue
                left = self._heap[0][0] - time.monotonic()
                if left <= 0:
                    due = heapq.heappop(self._heap)[2]
                    if (call := due.call) is not None:
                        due.cancel()
                        return call
                else:
                    self._changed.wait(left)
            return None
