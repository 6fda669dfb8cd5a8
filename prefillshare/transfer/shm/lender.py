"""The lending side of one connection."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

import numpy as np

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferEnded,
    TransferError,
    TransferIntegrityError,
    TransferRefused,
    TransferTimeout,
)
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import MAX_NOTE_BYTES, Access, GrantEnd, Outcome
from prefillshare.transfer.grants import GrantTable, Loan
from prefillshare.transfer.ranges import as_ranges, check_within
from prefillshare.transfer.rows import Covered
from prefillshare.transfer.shm import wire
from prefillshare.transfer.shm.wire import Channel, Kind

HANDSHAKE_SECONDS = 10.0
MAX_DATA_RANGES = 512


class Lender:
    """Serves one peer's one request out of a table of grants."""

    def __init__(
        self, channel: Channel, table: GrantTable, arena: Arena | None, engine_id: str
    ) -> None:
        self._channel = channel
        self._table = table
        self._arena = arena
        self._engine_id = engine_id
        self._why: Exception | None = None
        self._deadline: float | None = time.monotonic() + HANDSHAKE_SECONDS

    def stop(self, why: Exception) -> None:
        """Break off; returns at once."""
        self._why = self._why or why
        self._channel.wake()

    def serve(self) -> None:
        """Serve until the peer has what it wants, or is gone."""
        try:
            self._answer()
        except TransferError as error:
            self._last_words(error)
        except (OSError, MemoryError) as error:
            text = f"the lender has nothing left to lend with: {error or 'no memory'}"
            self._last_words(TransferBroken(text))

    def _answer(self) -> None:
        channel, check = self._channel, self._check
        greeting = wire.GREETING.pack(wire.MAGIC, bytes.fromhex(self._engine_id))
        channel.send([greeting], check)
        wire.check_peer(channel.sock)
        channel.reply(check)
        kind, key, secret = wire.REQUEST.unpack(
            channel.receive(wire.REQUEST.size, check)
        )
        if kind not in (Kind.READ, Kind.WRITE, Kind.MAP):
            raise TransferIntegrityError(f"request of unknown kind {kind}")
        access: Access = "write" if kind == Kind.WRITE else "read"
        loan = self._table.enter(key, secret, access, self.stop)
        end: GrantEnd | None = None
        try:
            end = self._take(loan) if kind == Kind.WRITE else self._show(loan, kind)
        finally:
            accepted = self._table.leave(loan, end)
        if not accepted:
            raise TransferEnded("the grant was withdrawn at the last moment")
        self._deadline = time.monotonic() + HANDSHAKE_SECONDS
        channel.reply(check)

    def _show(self, loan: Loan, kind: Kind) -> GrantEnd:
        """Hand out ranges to read, and wait for the reader's end."""
        if self._arena is None:
            raise TransferRefused("the engine lends no memory to read: it has no arena")
        ranges = loan.pieces.ranges()
        ranges[:, 0] += self._arena.offset_of(loan.pieces.memory)
        descriptor = self._arena.reader()
        try:
            self._channel.reply(self._check, None, ranges, descriptor)
        finally:
            os.close(descriptor)
        self._deadline = None
        try:
            return self._read_done(self._check)
        except TransferBroken:
            # The kernel says that the process is gone, and its mapping with it.
            if kind == Kind.MAP:
                return GrantEnd(Outcome.EXPIRED)
            raise
        except Exception as error:
            self._await_end(error)
            raise

    def _await_end(self, error: Exception) -> None:
        """Tell a reader to stop, and wait for it: it may read until it has said so."""
        said = error if isinstance(error, TransferError) else TransferEnded(str(error))
        wait = _never
        try:
            self._channel.reply(wait, said)
            while True:
                self._channel.receive(1, wait)
        except TransferBroken:
            return

    def _take(self, loan: Loan) -> GrantEnd:
        """Receive what a peer writes, straight into the granted pieces."""
        if not self._table.first(loan, HANDSHAKE_SECONDS):
            raise TransferTimeout("an earlier transfer of the grant does not end")
        self._channel.reply(self._check)
        self._deadline = None
        covered, moved = Covered(), 0
        while True:
            kind, count, size = self._message(self._check)
            if kind == Kind.DONE:
                return self._done(count, moved, self._check)
            if kind != Kind.DATA or not 0 < count <= MAX_DATA_RANGES:
                raise TransferIntegrityError(f"message {kind} of {count} ranges")
            moved += self._receive(loan, covered, count, size)

    def _receive(self, loan: Loan, covered: Covered, count: int, size: int) -> int:
        table = self._channel.receive(16 * count, self._check)
        try:
            ranges = as_ranges(np.frombuffer(table, "<i8").reshape(-1, 2))
            check_within(ranges, loan.pieces.size, "the grant")
            covered.add(ranges)
        except ValueError as error:
            raise TransferIntegrityError(f"the peer sent bytes for {error}") from error
        if int(ranges[:, 1].sum()) != size:
            raise TransferIntegrityError(f"{size} bytes for ranges of another size")
        memory = loan.pieces.memory
        rows = loan.pieces.resolve(ranges).tolist()
        self._channel.receive_into([memory[a : a + n] for a, n in rows], self._check)
        return size

    def _read_done(self, check: Callable[[], float | None]) -> GrantEnd:
        kind, count, size = self._message(check)
        if kind != Kind.DONE:
            raise TransferIntegrityError(f"message {kind} from a reader")
        return self._done(count, size, check)

    def _done(
        self, count: int, moved: int, check: Callable[[], float | None]
    ) -> GrantEnd:
        if count > MAX_NOTE_BYTES:
            raise TransferIntegrityError(f"a note of {count} bytes")
        note = self._channel.receive(count, check)
        return GrantEnd(Outcome.DONE, note, moved)

    def _message(self, check: Callable[[], float | None]) -> tuple[int, int, int]:
        raw = self._channel.receive(wire.MESSAGE.size, check)
        kind, count, size = wire.MESSAGE.unpack(raw)
        return kind, count, size

    def _check(self) -> float | None:
        if self._why:
            raise self._why
        if self._deadline is None:
            return None
        if (left := self._deadline - time.monotonic()) > 0:
            return left
        raise TransferTimeout("the peer did not send a request in time")

    def _last_words(self, error: TransferError) -> None:
        """Say why it ended to a peer that may be gone, without a wait for it."""

        def now() -> float:
            if self._channel.ready(select.POLLOUT, 0):
                return 0.0
            raise TransferClosed("the peer does not listen")

        try:
            self._channel.reply(now, error)
        except TransferError:
            return


def _never() -> None:
    return None
