"""Calls that may wait for a peer, on threads of their own."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Hashable

from prefillshare.errors import CapacityError, TransferBroken

_log = logging.getLogger(__name__)
# Under way and waiting: each may have a message with it.
MAX_CALLS = 1024
Call = Callable[[], None]


class Lanes:
    """Makes the calls of one lane one after the other; no lane waits for another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Calls that wait, by lane; a lane is there for as long as a thread has it.
        self._lanes: dict[Hashable, deque[Call]] = {}
        self._given: queue.SimpleQueue[Hashable | None] = queue.SimpleQueue()
        self._calls = 0
        # Threads that wait for a lane, less those that one was given for.
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def put(self, lane: Hashable, call: Call) -> None:
        """Have a call made.

        Raises `TransferBroken` if there is no thread for it, `CapacityError` if too
        many wait.
        """
        with self._lock:
            if self._calls >= MAX_CALLS:
                raise CapacityError(
                    f"{self._calls} calls of one worker wait for peers, which is all "
                    "that may; ask for less at once"
                )
            if lane not in self._lanes:
                self._take_thread()
                self._lanes[lane] = deque()
                self._given.put(lane)
            self._lanes[lane].append(call)
            self._calls += 1

    def close(self) -> None:
        """Wait for the calls that there are, and end the threads."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._given.put(None)
        for thread in threads:
            thread.join()

    def _take_thread(self) -> None:
        if self._idle:
            self._idle -= 1
            return
        thread = threading.Thread(target=self._run, name="worker-lane", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise TransferBroken(
                f"the agent has no thread for what may wait ({error}); allow more"
            ) from error
        self._threads.add(thread)

    def _run(self) -> None:
        here = threading.current_thread()
        while (lane := self._given.get()) is not None:
            while (call := self._next(lane)) is not None:
                try:
                    call()
                except Exception:
                    _log.exception("what a worker asked for failed")
                # What it holds is not held until the next one.
                del call
                with self._lock:
                    self._calls -= 1
            if here not in self._threads:
                return

    def _next(self, lane: Hashable) -> Call | None:
        """The lane's next call; without one its thread waits for another lane."""
        with self._lock:
            if self._lanes[lane]:
                return self._lanes[lane].popleft()
            del self._lanes[lane]
            # One stays for what comes next: a thread costs more than most calls.
            if self._idle and not self._closed:
                self._threads.discard(threading.current_thread())
            else:
                self._idle += 1
            return None
