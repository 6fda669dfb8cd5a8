"""The side of a session that connects, and moves memory."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferError,
    TransferIdentityError,
    TransferIntegrityError,
)
from prefillshare.transfer.base import (
    Access,
    Batch,
    Grant,
    Region,
    StreamInfo,
    Transfer,
)
from prefillshare.transfer.beginning import Beginning
from prefillshare.transfer.pending import STOP_SECONDS
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.batches import Checked
from prefillshare.transfer.tcp.dial import Dialler
from prefillshare.transfer.tcp.ends import Sending
from prefillshare.transfer.tcp.session import Session
from prefillshare.transfer.tcp.transfer import TcpTransfer
from prefillshare.transfer.timer import Timer

_log = logging.getLogger(__name__)


class TcpLink(Beginning[Transfer]):
    """See `Link`; one session at a time, made anew when it is needed."""

    def __init__(
        self,
        dialler: Dialler,
        timer: Timer,
        check_region: Callable[[Region], None],
        forget: Callable[[TcpLink], None],
    ) -> None:
        self._dialler, self._timer, self._forget = dialler, timer, forget
        self._check_region = check_region
        self._under_way: list[TcpTransfer] = []
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._stream_number = 0
        self._session: Session | None = None
        self._number = 0
        self._repairing: threading.Thread | None = None
        self._closed = threading.Event()

    def open(self, timeout: float) -> None:
        """Connect now; see `Engine.connect` for errors."""
        self._connected(timeout)

    @property
    def peer(self) -> str:
        """The engine at the other end (hexadecimal); empty while not connected."""
        session = self._session
        return session.agreed.peer.hex() if session and session.alive else ""

    @property
    def warm(self) -> bool:
        """See `Link.warm`."""
        session = self._session
        return session is not None and session.alive

    def streams(self) -> list[StreamInfo]:
        """See `Link.streams`."""
        session, found = self._session, []
        for stream in session.streams() if session else []:
            try:
                found.append(stream.info())
            except OSError:
                continue
        return found

    def let_go(self, region: Region) -> bool:
        """Cancel what moves memory of a region, and wait; whether that is over."""
        with self._lock:
            mine = [t for t in self._under_way if t.region is region and not t.done]
        for transfer in mine:
            transfer.stop(TransferClosed("the region was deregistered on this side"))
        for transfer in mine:
            with contextlib.suppress(TransferError):
                transfer.wait(STOP_SECONDS)
        with self._lock:
            self._under_way = [t for t in self._under_way if not t.done]
        return all(transfer.done for transfer in mine)

    def close(self) -> None:
        """See `Link.close`."""
        with self._lock:
            self._closed.set()
            session, repairing = self._session, self._repairing
        if session is not None:
            session.close()
        if repairing not in (None, threading.current_thread()):
            repairing.join()
        self._forget(self)

    # What a session asks of its role.

    def handle(self, session: Session, frame: frames.Frame) -> None:
        """See `Role.handle`."""
        if not isinstance(frame, frames.Done):
            raise TransferIntegrityError(f"{type(frame).__name__} from a lender")
        if (end := session.board.find(frame.transfer)) is None:
            return
        if not isinstance(end, Sending) or not end.finished:
            raise TransferIntegrityError(
                f"transfer {frame.transfer} is done, says the peer, which cannot know"
            )
        session.board.end(end, None)

    def stream_lost(self, session: Session) -> None:
        """Make it again, on a thread of its own."""
        with self._lock:
            if self._closed.is_set() or self._repairing is not None:
                return
            thread = threading.Thread(
                target=self._repair, name="kv-repair", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                # The next stream that is lost, or transfer that begins, tries again.
                _log.warning("no thread to make a stream again: %s", error)
                return
            self._repairing = thread

    def session_over(self, session: Session) -> None:
        """Nothing to do: the next transfer connects again."""

    def begin(
        self,
        access: Access,
        grant: Grant,
        region: Region,
        batch: Batch | None,
        timeout: float,
        note: bytes,
    ) -> Transfer:
        """See `Beginning.begin`; small writes go whole, in one frame."""
        self._check_region(region)
        first = None if batch is None else Checked.of(batch, region, grant)
        session = self._connected(timeout)
        if session.agreed.peer.hex() != grant.engine:
            raise TransferIdentityError(
                f"engine {session.agreed.peer.hex()} now listens at {grant.address}, "
                f"the grant is of {grant.engine}, which has ended; ask for a new grant"
            )
        # Numbers reach the peer in their order.
        with self._lock:
            self._number += 1
            made = TcpTransfer(session, self._number, grant, region, timeout, first)
            made.open(note)
            self._under_way = [t for t in self._under_way if not t.done] + [made]
        session.settle(lambda: not made.end.ended)
        if first is not None:
            _feed(made, first)
        return made

    def _connected(self, timeout: float) -> Session:
        with self._connecting:
            if self._closed.is_set():
                raise TransferClosed("the link is closed; connect again")
            session = self._session
            if session is None or not session.alive:
                session = self._replaced(session, timeout)
        if not _is_full(session):
            self.stream_lost(session)
        return session

    def _replaced(self, earlier: Session | None, timeout: float) -> Session:
        if earlier is not None:
            earlier.join()
        session = self._made(timeout)
        with self._lock:
            if not self._closed.is_set():
                self._session = session
                return session
        session.close()
        raise TransferClosed("the link was closed on this side")

    def _made(self, timeout: float) -> Session:
        channel, agreed = self._dialler.dial(timeout)
        session = Session(channel, agreed, self, self._dialler.settings, self._timer)
        self._stream_number = 0
        try:
            for _ in range(self._dialler.settings.streams):
                self._add_stream(session, timeout)
            session.start()
        except TransferError:
            session.end(TransferBroken("no data connection could be made"))
            session.join()
            raise
        return session

    def _add_stream(self, session: Session, timeout: float) -> None:
        self._stream_number += 1
        number = self._stream_number
        sock = self._dialler.dial_stream(session.agreed, number, timeout)
        try:
            session.attach(number, sock)
        except TransferError:
            sock.close()
            raise

    def _repair(self) -> None:
        """Bring the streams back to their number, trying less and less often."""
        settings = self._dialler.settings
        delay = settings.retry_seconds
        while not self._closed.wait(delay):
            with self._lock:
                session = self._session
                if not session or not session.alive or _is_full(session):
                    self._repairing = None
                    return
            try:
                self._add_stream(session, settings.handshake_seconds)
            except TransferError as error:
                _log.info("a stream to %s: %s", self._dialler.address, error)
                delay = min(2 * delay, 100 * settings.retry_seconds)


def _is_full(session: Session) -> bool:
    return len(session.streams()) >= session.settings.streams


def _feed(made: TcpTransfer, first: Checked) -> None:
    try:
        made.feed(first)
    except TransferError:
        # It is over already; `wait` says why.
        pass
    except BaseException:
        made.cancel()
        raise
