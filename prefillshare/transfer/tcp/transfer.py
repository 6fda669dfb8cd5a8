"""A transfer, on the side that asked for it."""

from __future__ import annotations

import secrets
import threading

from prefillshare.errors import TransferClosed, TransferError, TransferTimeout
from prefillshare.transfer.base import Batch, Grant, Region
from prefillshare.transfer.pending import Pending
from prefillshare.transfer.ranges import check_disjoint
from prefillshare.transfer.rows import Covered
from prefillshare.transfer.secure.sealing import KEY_BYTES, guard_of
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.batches import Checked
from prefillshare.transfer.tcp.ends import End, Receiving, Sending, Whole
from prefillshare.transfer.tcp.session import Session
from prefillshare.transfer.timer import Due


class TcpTransfer(Pending):
    """See `Transfer`; `first` is all of it, None if it is fed.

    Raises `ValueError` for ranges that share a byte of what is written to.
    """

    def __init__(
        self,
        session: Session,
        number: int,
        grant: Grant,
        region: Region,
        timeout: float,
        first: Checked | None,
    ) -> None:
        super().__init__()
        self._session, self._grant, self.region = session, grant, region
        self.sealed = session.agreed.sealed
        self._key = secrets.token_bytes(KEY_BYTES) if self.sealed else bytes(KEY_BYTES)
        writing = grant.access == "write"
        self._whole = first if first and first.small and writing else None
        kind = Whole if self._whole else Sending if writing else Receiving
        extent = (first.size, first.pieces) if first else (0, 1)
        slice_bytes = session.settings.slices_of(*extent, sealed=self.sealed)
        guard = guard_of(self.sealed, self._key, from_lender=not writing)
        self.end: End = kind(number, region.memory, slice_bytes, guard, self._over)
        self._covered = Covered()
        if self._whole is not None:
            check_disjoint(self._whole.written(grant))
        elif first is not None:
            self._covered.add(first.written(grant))
        # What is added is cut into slices in the order in which the peer is told of it.
        self._feeding = threading.Lock()
        self._timeout = timeout
        self._due: Due | None = None

    @property
    def progress(self) -> tuple[int, int]:
        """See `Transfer.progress`."""
        return self.end.moved, self.end.pieces.size

    def open(self, note: bytes) -> None:
        """Tell the peer, before anything is fed; a small write goes all at once.

        Raises why the session is over, if it is; so is the transfer then.
        """
        try:
            self._open(note)
        except TransferError as error:
            self.settle(error)
            raise

    def _open(self, note: bytes) -> None:
        grant = bytes.fromhex(self._grant.grant_id)
        secret = bytes.fromhex(self._grant.capability)
        number = self.end.number
        if self._whole is None:
            self._enter()
            write, step = self._grant.access == "write", self.end.slice_bytes
            frame = frames.Open(number, write, step, grant, secret, self._key, note)
            self._session.send(frame)
            return
        local, remote = self._whole.local, self._whole.remote
        self.end.add(local, [self._whole.size])
        self.announce(0, self._whole.rows)
        payload = b"".join(self.end.pieces.views(0, self.end.pieces.size))
        rest = frames.packed(remote) + note + payload
        counts = len(remote), len(note)
        self.end.moved = len(payload)
        self.end.finish()
        self._enter()
        self._session.send(frames.Eager(number, grant, secret, *counts, rest))

    def _enter(self) -> None:
        self._session.board.open(self.end)
        self._due = self._session.timer.after(self._timeout, self._expire)

    def add(self, batch: Batch) -> None:
        """See `Transfer.add`."""
        more = Checked.of(batch, self.region, self._grant)
        with self._feeding:
            self._check(more)
            self._covered.add(more.written(self._grant))
            self._feed(more)

    def feed(self, first: Checked) -> None:
        """Add what it was made for, all there is; raises as `Transfer.add`."""
        if self._whole is not None:
            return
        with self._feeding:
            self._check(first)
            self._feed(first)
            self._finish()

    def _check(self, more: Checked) -> None:
        if self.end.ended:
            raise self.end.failure or TransferClosed("the transfer is over")
        if self.end.finished:
            raise ValueError("the transfer is finished; nothing more can be added")
        self.end.check(more.local, _sizes(more))

    def _feed(self, more: Checked) -> None:
        number = self.end.number
        # The peer is told first: what it must send, or where to put what comes.
        for part in more.parts():
            if self.end.ended:
                break
            self._session.send(frames.Add(number, frames.packed(part)))
            self._session.settle(lambda: not self.end.ended)
        self._session.board.add(self.end, more.local, _sizes(more))
        self.announce(0, more.rows)

    def finish(self) -> None:
        """See `Transfer.finish`."""
        with self._feeding:
            self._finish()

    def _finish(self) -> None:
        if self.end.finished:
            return
        total = self.end.pieces.size
        if not total:
            self.stop(TransferClosed("nothing was added to it"))
            raise ValueError("a transfer of nothing; add a batch before `finish`")
        board = self._session.board
        finish = frames.Finish(self.end.number, total)
        # Who receives says that all has arrived, which must not come before that.
        if isinstance(self.end, Receiving):
            self._session.send(finish)
            board.finish(self.end)
        else:
            board.finish(self.end)
            self._session.send(finish)
        # Whoever waits is told on a thread of the engine.
        self._session.timer.after(0.0, lambda: board.end_if_complete(self.end))

    def interrupt(self) -> None:
        """See `Pending.interrupt`; the rest happens on a thread of the engine."""
        self._session.timer.after(0.0, self._break_off)

    def _break_off(self) -> None:
        cause = self.cause or TransferClosed("stopped on this side")
        self._session.fail(self.end, cause)

    def _expire(self) -> None:
        moved, total = self.progress
        text = f"{moved} of {total} bytes moved within {self._timeout} s"
        self.stop(TransferTimeout(text))

    def _over(self, failure: Exception | None) -> None:
        if self._due is not None:
            self._due.cancel()
        if failure is None and isinstance(self.end, Receiving):
            self._session.send(frames.Done(self.end.number))
        self.count(self.end.moved)
        self.settle(failure)


def _sizes(more: Checked) -> list[int]:
    return [int(part[:, 1].sum()) for part in more.parts()]
