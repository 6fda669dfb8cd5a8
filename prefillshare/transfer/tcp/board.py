"""The transfers of one session, and what its streams do next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from prefillshare.errors import TransferError, TransferIntegrityError
from prefillshare.transfer.base import Ranges
from prefillshare.transfer.pending import again
from prefillshare.transfer.tcp.ends import End, Receiving, Sending
from prefillshare.transfer.tcp.slices import Ledger, SliceHead

E = TypeVar("E", bound=End)


class Board:
    """Ends by the number of their transfer; numbers go up, from 1.

    `stalled` is called with the streams that are still at the memory of an end that
    is over, so that they are broken off if they do not leave soon.
    """

    def __init__(self, stalled: Callable[[End], None]) -> None:
        self._lock = threading.RLock()
        # Two, so that those who send are not woken for what they have no part in: a
        # small write goes with its frame.
        self._to_send = threading.Condition(self._lock)
        self._expected = threading.Condition(self._lock)
        self._ends: dict[int, End] = {}
        self._turn: deque[Sending] = deque()
        self._last = 0
        self._stalled = stalled
        self._closed: Exception | None = None

    def open(self, end: End) -> None:
        """Let the streams work at it; raises why the session is over, if it is."""
        with self._lock:
            if self._closed:
                raise again(self._closed)
            if end.number <= self._last:
                raise TransferIntegrityError(
                    f"transfer {end.number} comes after {self._last}"
                )
            self._last = end.number
            self._ends[end.number] = end
            if isinstance(end, Sending):
                self._turn.append(end)
                if end.ready:
                    self._to_send.notify_all()
            self._expected.notify_all()

    def find(self, number: int) -> End | None:
        """The end of a transfer that is under way."""
        with self._lock:
            return self._ends.get(number)

    def skip(self, number: int) -> None:
        """A transfer of that number will not be opened any more."""
        with self._lock:
            self._last = max(self._last, number)
            self._expected.notify_all()

    def add(self, end: End, ranges: Ranges, sizes: Sequence[int]) -> None:
        """Feed an end, see `End.add`; raises what it ended with if it is over."""
        with self._lock:
            if end.ended:
                raise end.failure or TransferError("the transfer is over")
            if end.finished:
                raise ValueError("the transfer is finished; nothing more can be added")
            end.add(ranges, sizes)
            self._progress(end)

    def finish(self, end: End) -> None:
        """Nothing more comes; `end_if_complete` follows."""
        with self._lock:
            end.finish()
            self._progress(end)

    def let_in(self, end: Receiving) -> None:
        """The turn of an end that was held has come."""
        with self._lock:
            end.held = False
            self._progress(end)
        self.end_if_complete(end)

    def end(self, end: End, failure: Exception | None) -> bool:
        """A transfer is over; whether it was not before."""
        with self._lock:
            if self._ends.pop(end.number, None) is None:
                return False
            end.ended, end.failure = True, failure
            if isinstance(end, Sending):
                self._turn.remove(end)
            busy = bool(end.active)
            self._expected.notify_all()
        if busy:
            self._stalled(end)
        else:
            end.tell()
        return True

    def close(self, failure: Exception) -> None:
        """The session is over, and all of its transfers."""
        with self._lock:
            self._closed = self._closed or failure
            ends = list(self._ends.values())
            self._wake()
        for end in ends:
            self.end(end, failure)

    # What the threads of a stream call.

    def take(
        self, stream: int, alive: Callable[[], bool]
    ) -> tuple[Sending, SliceHead] | None:
        """Wait for a slice to send; None if the stream or the session is over."""
        with self._lock:
            while self._closed is None and alive():
                if (job := self._next(stream)) is not None:
                    return job
                self._to_send.wait()
            return None

    def _next(self, stream: int) -> tuple[Sending, SliceHead] | None:
        for _ in range(len(self._turn)):
            end = self._turn[0]
            self._turn.rotate(-1)
            if end.ready:
                end.active.add(stream)
                return end, end.take(stream)
        return None

    def sent(self, end: Sending, head: SliceHead, stream: int) -> None:
        """A slice has left, or its stream broke: `lost` takes those back."""
        with self._lock:
            end.moved += head.length
        self.leave(end, stream)

    def claim(
        self, head: SliceHead, stream: int, alive: Callable[[], bool]
    ) -> tuple[Receiving, list[memoryview]] | None:
        """Where an arriving slice goes, once that is known; None if nobody wants it.

        `TransferIntegrityError` if no such slice can be.
        """
        with self._lock:
            while self._closed is None and alive():
                end = self._ends.get(head.transfer)
                if end is None and head.transfer <= self._last:
                    return None
                if end is not None and not isinstance(end, Receiving):
                    raise TransferIntegrityError(f"{head} is for a transfer that sends")
                if end is not None and end.covers(head):
                    views = end.claim(head)
                    end.active.add(stream)
                    return end, views
                # The control connection is behind the stream, or its turn has not come.
                self._expected.wait()
            return None

    def settle(self, end: Receiving, head: SliceHead, stream: int) -> None:
        """A claimed slice is in place and verified."""
        with self._lock:
            end.settle(head)
        self.leave(end, stream)
        self.end_if_complete(end)

    def release(self, end: Receiving, head: SliceHead, stream: int) -> None:
        """A claimed slice did not arrive whole."""
        with self._lock:
            end.release(head)
        self.leave(end, stream)

    def leave(self, end: End, stream: int) -> None:
        """The stream is no longer at the memory of the end."""
        with self._lock:
            end.active.discard(stream)
            due = end.ended and not end.active
        if due:
            end.tell()

    def wake(self) -> None:
        """Have waiting threads look again whether their stream is alive."""
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        self._to_send.notify_all()
        self._expected.notify_all()

    def _progress(self, end: End) -> None:
        """Wake who may go on with an end."""
        if not isinstance(end, Sending):
            self._expected.notify_all()
        elif end.ready:
            self._to_send.notify_all()

    def arrived(self) -> dict[int, bytes]:
        """Of each transfer that is received, which slices have arrived."""
        with self._lock:
            return {
                number: end.arrived.to_bytes()
                for number, end in self._ends.items()
                if isinstance(end, Receiving)
            }

    def lost(self, stream: int, arrived: dict[int, Ledger]) -> None:
        """Send again what a lost stream carried, but for what arrived."""
        with self._lock:
            for end in self._turn:
                end.lost(stream, arrived.get(end.number, Ledger()))
            self._to_send.notify_all()

    def end_if_complete(self, end: End) -> None:
        """End a transfer all of whose bytes are in place."""
        if isinstance(end, Receiving) and end.complete:
            self.end(end, None)
