"""The side of a session that lends memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from prefillshare.errors import (
    TransferBroken,
    TransferEnded,
    TransferError,
    TransferIntegrityError,
    TransferRefused,
)
from prefillshare.transfer.base import Access, GrantEnd, Outcome, Ranges
from prefillshare.transfer.grants import GrantTable, Loan
from prefillshare.transfer.ranges import check_disjoint, check_within
from prefillshare.transfer.rows import Covered
from prefillshare.transfer.secure.sealing import guard_of
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.ends import End, Receiving, Sending
from prefillshare.transfer.tcp.outcomes import fail_of
from prefillshare.transfer.tcp.session import Session

# Streams of an earlier transfer leave within the grace, or are broken off then.
EARLIER_SECONDS = 10.0


@dataclass
class _Loaned:
    loan: Loan
    note: bytes
    end: End
    covered: Covered = field(default_factory=Covered)


class Lender:
    """Answers the transfers of one peer out of the grants of an engine."""

    def __init__(self, grants: GrantTable, forget: Callable[[Session], None]) -> None:
        self._grants = grants
        self._forget = forget
        # Filled by the control thread, emptied by whichever ends one.
        self._open: dict[int, _Loaned] = {}

    def handle(self, session: Session, frame: frames.Frame) -> None:
        """See `Role.handle`."""
        match frame:
            case frames.Open():
                self._begin(session, frame)
            case frames.Add(number):
                self._with(
                    session, number, lambda found: self._add(session, found, frame)
                )
            case frames.Finish(number, total):
                self._with(
                    session, number, lambda found: _finish(session, found, total)
                )
            case frames.Eager():
                self._take(session, frame)
            case frames.Done(number):
                self._with(session, number, lambda found: _done(session, found))
            case _:
                raise TransferIntegrityError(
                    f"{type(frame).__name__} from a peer that connects"
                )

    def stream_lost(self, session: Session) -> None:
        """The side that connects makes streams again."""

    def session_over(self, session: Session) -> None:
        """See `Role.session_over`."""
        self._forget(session)

    def _begin(self, session: Session, frame: frames.Open) -> None:
        access: Access = "write" if frame.write else "read"
        try:
            loan = self._enter(
                frame.grant,
                frame.capability,
                access,
                lambda error: self._abort_soon(session, frame.transfer, error),
            )
        except TransferError as error:
            session.board.skip(frame.transfer)
            session.send(fail_of(frame.transfer, error))
            return
        kind = Receiving if frame.write else Sending
        guard = guard_of(session.agreed.sealed, frame.key, from_lender=not frame.write)

        def over(failure: Exception | None) -> None:
            self._over(session, found, failure)

        end = kind(frame.transfer, loan.pieces.memory, frame.slice_bytes, guard, over)
        found = _Loaned(loan, frame.note, end)
        self._open[frame.transfer] = found
        try:
            session.board.open(end)
        except TransferError:
            self._open.pop(frame.transfer, None)
            self._grants.leave(loan, None)
            raise

    def _enter(
        self,
        grant: bytes,
        capability: bytes,
        access: Access,
        abort: Callable[[Exception], None],
    ) -> Loan:
        loan = self._grants.enter(grant, capability, access, abort)
        if access == "write" and not self._grants.first(loan, EARLIER_SECONDS):
            self._grants.leave(loan, None)
            raise TransferRefused("an earlier transfer is still at the memory")
        return loan

    def _abort_soon(self, session: Session, number: int, error: Exception) -> None:
        # The table of grants waits for nobody's socket.
        session.timer.after(0.0, lambda: self._abort(session, number, error))

    def _abort(self, session: Session, number: int, error: Exception) -> None:
        if (end := session.board.find(number)) is not None:
            session.fail(end, error)

    def _over(
        self, session: Session, found: _Loaned, failure: Exception | None
    ) -> None:
        number, done = found.end.number, None
        self._open.pop(number, None)
        if failure is None:
            done = GrantEnd(Outcome.DONE, found.note, found.end.moved)
        accepted = self._grants.leave(found.loan, done)
        if failure is None and not accepted:
            session.send(fail_of(number, TransferEnded("the grant was withdrawn")))
        elif failure is None and isinstance(found.end, Receiving):
            session.send(frames.Done(number))

    def _with(
        self, session: Session, number: int, act: Callable[[_Loaned], None]
    ) -> None:
        if (found := self._open.get(number)) is None:
            # It ended on this side, and the peer has not heard of it yet.
            return
        try:
            act(found)
        except (ValueError, TransferError) as error:
            session.fail(found.end, TransferIntegrityError(str(error)))
        except MemoryError:
            text = "no memory for the ranges of a transfer; free some"
            session.fail(found.end, TransferBroken(text))

    def _add(self, session: Session, found: _Loaned, frame: frames.Add) -> None:
        ranges = within(found.loan, frame.ranges)
        if isinstance(found.end, Receiving):
            found.covered.add(ranges)
        size = int(ranges[:, 1].sum())
        session.board.add(found.end, ranges, [size])

    def _take(self, session: Session, frame: frames.Eager) -> None:
        session.board.skip(frame.transfer)
        try:
            ranges, note, payload = frame.parts()
            loan = self._enter(frame.grant, frame.capability, "write", lambda _: None)
        except ValueError as error:
            raise TransferIntegrityError(f"a small write: {error}") from error
        except TransferError as error:
            session.send(fail_of(frame.transfer, error))
            return
        done = None
        try:
            check_disjoint(pieces := within(loan, ranges))
            scatter(loan.pieces.memory, pieces, payload)
            done = GrantEnd(Outcome.DONE, note, payload.nbytes)
        except ValueError as error:
            session.send(fail_of(frame.transfer, TransferIntegrityError(str(error))))
        finally:
            accepted = self._grants.leave(loan, done)
        if done and accepted:
            session.send(frames.Done(frame.transfer))
        elif done:
            ended = TransferEnded("the grant was withdrawn")
            session.send(fail_of(frame.transfer, ended))


def within(loan: Loan, ranges: Ranges) -> Ranges:
    """Ranges of a grant as ranges of the region; `ValueError` if out of bounds."""
    check_within(ranges, loan.pieces.size, "the grant")
    return loan.pieces.resolve(ranges)


def scatter(memory: memoryview, ranges: Ranges, payload: memoryview) -> None:
    """Copy a payload into ranges, in order."""
    at = 0
    for offset, length in ranges.tolist():
        memory[offset : offset + length] = payload[at : at + length]
        at += length


def _finish(session: Session, found: _Loaned, total: int) -> None:
    if total != found.end.pieces.size:
        raise ValueError(f"{found.end.pieces.size} bytes were added, not {total}")
    session.board.finish(found.end)
    session.board.end_if_complete(found.end)


def _done(session: Session, found: _Loaned) -> None:
    if not isinstance(found.end, Sending) or not found.end.finished:
        raise ValueError("who cannot know says that all has arrived")
    session.board.end(found.end, None)
