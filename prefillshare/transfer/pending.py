"""The waiting side of a transfer, the same over every transport."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TypeVar

from prefillshare.errors import TransferClosed, TransferError, TransferTimeout
from prefillshare.transfer.base import TransferStats

E = TypeVar("E", bound=BaseException)
# A transport that was told to stop does so at its next slice or system call.
STOP_SECONDS = 30.0


def again(error: E) -> E:
    """The same error without its history, for another to raise.

    An error that has been raised keeps the frames that it passed, and so the memory
    that a thread of the engine moved there.
    """
    return type(error)(*error.args) if isinstance(error, TransferError) else error


class Pending:
    """A result to wait for, and the reason to stop early.

    A transport calls `count` as bytes move and `settle` once, when nothing touches
    the local memory any more. `stop`, from any side, records the first reason to end
    and calls `interrupt`, which a transport overrides to wake what moves the bytes;
    it must then settle soon.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._future: Future[TransferStats] = Future()
        # Running futures cannot be cancelled by others, asyncio among them.
        self._future.set_running_or_notify_cancel()
        self._begin = time.monotonic()
        self._cause: Exception | None = None
        self._settled = False
        self._moved = 0
        self._added = 0
        self._ranges = 0
        # Set by a transport that encrypts this one.
        self.sealed = False

    @property
    def progress(self) -> tuple[int, int]:
        """See `Transfer.progress`."""
        return self._moved, self._added

    @property
    def done(self) -> bool:
        """See `Transfer.done`."""
        return self._future.done()

    @property
    def cause(self) -> Exception | None:
        """Why it must stop, None while it need not."""
        return self._cause

    def wait(self, timeout: float | None = None) -> TransferStats:
        """See `Transfer.wait`."""
        try:
            return self._future.result(timeout)
        except TimeoutError:
            if self._future.done():
                return self._future.result()
        self.stop(TransferTimeout(f"not over after the {timeout} s that were waited"))
        try:
            return self._future.result(STOP_SECONDS)
        except TimeoutError:
            if self._future.done():
                return self._future.result()
        raise TransferTimeout(
            f"not over after {timeout} s, and not ended {STOP_SECONDS} s later: the "
            "memory may still be touched"
        )

    def cancel(self) -> None:
        """See `Transfer.cancel`."""
        self.stop(TransferClosed("the transfer was cancelled on this side"))

    def add_done_callback(self, call: Callable[[], None]) -> None:
        """See `Transfer.add_done_callback`; what `call` raises is logged."""
        self._future.add_done_callback(lambda _: call())

    def __await__(self) -> Generator[object, None, TransferStats]:
        """See `Transfer.__await__`; a task that is cancelled cancels the transfer."""
        return self._awaited().__await__()

    async def _awaited(self) -> TransferStats:
        try:
            return await asyncio.wrap_future(self._future)
        except asyncio.CancelledError:
            self.cancel()
            over = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._future.add_done_callback(
                lambda _: loop.call_soon_threadsafe(over.set)
            )
            async with asyncio.timeout(STOP_SECONDS):
                await over.wait()
            raise

    def stop(self, cause: Exception) -> None:
        """Have it end with `cause`; a no-op if it is over or has been stopped."""
        with self._lock:
            if self._cause or self._settled:
                return
            self._cause = cause
        self.interrupt()

    def interrupt(self) -> None:
        """Wake what moves the bytes. Must not block."""

    def announce(self, added: int, ranges: int) -> None:
        """Count bytes and ranges that were added."""
        with self._lock:
            self._added += added
            self._ranges += ranges

    def count(self, moved: int) -> None:
        """Count bytes that have left or arrived."""
        with self._lock:
            self._moved += moved

    def settle(self, error: BaseException | None = None) -> None:
        """It is over: well, or with what `stop` was told, else with `error`.

        Only the first call counts.
        """
        with self._lock:
            if self._settled:
                return
            self._settled = True
            stats = TransferStats(
                self._moved,
                self._ranges,
                time.monotonic() - self._begin,
                self.sealed,
            )
            outcome = (self._cause or error) if error else None
        # Callbacks run here, so no lock is held.
        if outcome is None:
            self._future.set_result(stats)
        else:
            self._future.set_exception(again(outcome))
