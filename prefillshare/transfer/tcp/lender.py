"""The side of a session that lends memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

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
from prefillshare.transfer.secure.sealing import Checksum, guard_of
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.ends import End, Over, Receiving, Sending
from prefillshare.transfer.tcp.outcomes import fail_of
from prefillshare.transfer.tcp.session import Session
from prefillshare.transfer.tcp.slices import SliceHead

# Numbers of streams begin with 1.
_CONTROL = 0


@dataclass
class _Loaned:
    """`payload` is that of a small write which came before its turn."""

    loan: Loan
    note: bytes
    end: End
    covered: Covered = field(default_factory=Covered)
    payload: memoryview | None = None


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
        if (refusal := _too_large(session, frame.slice_bytes)) is not None:
            session.board.skip(frame.transfer)
            session.send(fail_of(frame.transfer, refusal))
            return
        access: Access = "write" if frame.write else "read"
        secrets = frame.grant, frame.capability
        if (loan := self._enter(session, frame.transfer, *secrets, access)) is None:
            return
        guard = guard_of(session.agreed.sealed, frame.key, from_lender=not frame.write)
        what = frame.transfer, loan.pieces.memory, frame.slice_bytes, guard
        kind = partial(Receiving, held=True) if frame.write else Sending
        found = self._loaned(session, loan, frame.note, partial(kind, *what))
        self._open_end(session, found)

    def _enter(
        self,
        session: Session,
        number: int,
        grant: bytes,
        capability: bytes,
        access: Access,
    ) -> Loan | None:
        """The transfer's stay in the grant; if it is refused, the peer is told."""
        try:
            return self._grants.enter(
                grant,
                capability,
                access,
                lambda error: self._abort_soon(session, number, error),
            )
        except TransferError as error:
            session.board.skip(number)
            session.send(fail_of(number, error))
            return None

    def _loaned(
        self, session: Session, loan: Loan, note: bytes, make: Callable[[Over], End]
    ) -> _Loaned:
        def over(failure: Exception | None) -> None:
            self._over(session, found, failure)

        found = _Loaned(loan, note, make(over))
        return found

    def _open_end(self, session: Session, found: _Loaned) -> None:
        number, loan = found.end.number, found.loan
        self._open[number] = found
        try:
            session.board.open(found.end)
        except TransferError:
            self._open.pop(number, None)
            self._grants.leave(loan, None)
            raise
        if loan.why is not None:
            # It was broken off before there was anything on the board to end.
            session.fail(found.end, loan.why)
        if isinstance(found.end, Receiving) and self._grants.first_or_later(
            loan, lambda: self._turn_soon(session, number)
        ):
            self._turn(session, number)

    def _turn_soon(self, session: Session, number: int) -> None:
        # As `_abort_soon`.
        session.timer.after(0.0, lambda: self._turn(session, number))

    def _turn(self, session: Session, number: int) -> None:
        """No earlier transfer is at the memory of a writer any more."""
        found = self._open.get(number)
        if found is None or not isinstance(found.end, Receiving):
            return
        session.board.let_in(found.end)
        if found.payload is not None:
            _place(session, found.end, found.payload)

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
            session.send(_withdrawn(number))
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
        number, secrets = frame.transfer, (frame.grant, frame.capability)
        try:
            ranges, note, payload = frame.parts()
        except ValueError as error:
            raise TransferIntegrityError(f"a small write: {error}") from error
        if (loan := self._enter(session, number, *secrets, "write")) is None:
            return
        try:
            check_disjoint(pieces := within(loan, ranges))
        except ValueError as error:
            self._grants.leave(loan, None)
            session.board.skip(number)
            session.send(fail_of(number, TransferIntegrityError(str(error))))
            return
        if not self._grants.first(loan, 0.0):
            self._take_later(session, number, (loan, note), pieces, payload)
            return
        session.board.skip(number)
        scatter(loan.pieces.memory, pieces, payload)
        done = GrantEnd(Outcome.DONE, note, payload.nbytes)
        accepted = self._grants.leave(loan, done)
        session.send(frames.Done(number) if accepted else _withdrawn(number))

    def _take_later(
        self,
        session: Session,
        number: int,
        loaned: tuple[Loan, bytes],
        ranges: Ranges,
        payload: memoryview,
    ) -> None:
        """A small write before its turn: one slice, which has arrived with its frame.

        The control thread, which everything of the peer shares, does not wait for it.
        """
        memory, size = loaned[0].pieces.memory, payload.nbytes
        make = partial(Receiving, number, memory, size, Checksum(), held=True)
        found = self._loaned(session, *loaned, make)
        found.payload = payload
        found.end.add(ranges, [size])
        found.end.finish()
        self._open_end(session, found)


def _too_large(session: Session, slice_bytes: int) -> TransferRefused | None:
    most = session.settings.accepted_slice_bytes
    if slice_bytes <= most:
        return None
    return TransferRefused(
        f"slices of {slice_bytes} bytes, and this side takes at most {most}; set "
        "`slice_bytes` alike on both sides"
    )


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


def _place(session: Session, end: Receiving, payload: memoryview) -> None:
    head = SliceHead(end.number, 0, payload.nbytes, 0)
    try:
        claim = session.board.claim(head, _CONTROL, lambda: True)
    except TransferIntegrityError as error:
        session.fail(end, error)
        return
    if claim is not None:
        at = 0
        for view in claim[1]:
            view[:] = payload[at : at + view.nbytes]
            at += view.nbytes
        session.board.settle(end, head, _CONTROL)


def _withdrawn(number: int) -> frames.Fail:
    return fail_of(number, TransferEnded("the grant was withdrawn"))


def _finish(session: Session, found: _Loaned, total: int) -> None:
    if total != found.end.pieces.size:
        raise ValueError(f"{found.end.pieces.size} bytes were added, not {total}")
    session.board.finish(found.end)
    session.board.end_if_complete(found.end)


def _done(session: Session, found: _Loaned) -> None:
    if not isinstance(found.end, Sending) or not found.end.finished:
        raise ValueError("who cannot know says that all has arrived")
    session.board.end(found.end, None)
