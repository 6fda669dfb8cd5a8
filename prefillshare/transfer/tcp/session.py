"""One connection between two engines: control frames, streams, and their ends."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferEnded,
    TransferError,
    TransferIntegrityError,
)
from prefillshare.transfer.outbox import AGAIN_SECONDS, Outbox
from prefillshare.transfer.pending import again
from prefillshare.transfer.secure.channel import Channel
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.board import Board
from prefillshare.transfer.tcp.ends import End
from prefillshare.transfer.tcp.outcomes import fail_of, failure_of
from prefillshare.transfer.tcp.pacing import Pacer
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import Address
from prefillshare.transfer.tcp.stream import Stream
from prefillshare.transfer.tcp.streams import Streams
from prefillshare.transfer.timer import Due, Timer

_log = logging.getLogger(__name__)
# Of control frames, for a peer that does not read; it is given up then.
MAX_WAITING_BYTES = 1 << 26


@dataclass(frozen=True)
class Agreed:
    """What both sides know of a session after the handshake.

    `there` is where the side that connects has found the other.
    """

    session: bytes
    secret: bytes
    peer: bytes
    sealed: bool
    there: Address = ("", 0)


class Role(Protocol):
    """What a session does with what only one of the two sides is asked."""

    def handle(self, session: Session, frame: frames.Frame) -> None:
        """A frame about a transfer; raises `TransferIntegrityError` for a wrong one."""

    def stream_lost(self, session: Session) -> None:
        """A stream broke while the session lives."""

    def session_over(self, session: Session) -> None:
        """All transfers have ended or are about to."""


class Session:
    """Runs until the control connection ends, the peer is silent, or `close`.

    One frame has gone each way before, by which both sides know who they are.
    """

    def __init__(
        self,
        channel: Channel,
        agreed: Agreed,
        role: Role,
        settings: TcpSettings,
        timer: Timer,
    ) -> None:
        self.agreed, self.settings, self.timer = agreed, settings, timer
        self.board = Board(self._stalled)
        self._channel, self._role = channel, role
        self._outbox = Outbox(channel, MAX_WAITING_BYTES, place=1)
        self._pacer = Pacer(settings.bytes_per_second)
        self._streams = Streams(
            self.board, self._pacer, self._lost, self.fail, settings.open_streams
        )
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        # Whether a timed call will send what the peer's socket did not take.
        self._waits = False
        self._heard = time.monotonic()
        self._look_due: Due | None = None
        self._thread = threading.Thread(
            target=self._run, name="kv-control", daemon=True
        )

    def start(self) -> None:
        """Begin to read frames, and to look whether the peer is there.

        Raises `TransferBroken`, and the session is over, if there is no thread for it.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            broken = TransferBroken(f"no thread for a session ({error}); allow more")
            self.end(broken)
            raise broken from error
        self._look()

    @property
    def alive(self) -> bool:
        """Whether transfers can begin."""
        return self._failure is None

    @property
    def running(self) -> bool:
        """Whether its threads have not all ended."""
        return self._thread.is_alive()

    def send(self, *messages: frames.Frame) -> None:
        """Send control frames, in this order, without waiting for the peer to read.

        A connection that is gone ends the session.
        """
        try:
            self._outbox.put(*messages)
            done = self._outbox.flush()
        except (OSError, TransferError, MemoryError) as error:
            self._gone(error)
            return
        if not done:
            self._send_later()

    def settle(self, wanted: Callable[[], bool]) -> None:
        """Wait until the peer's socket has all that was sent, while that is wanted."""
        try:
            done = self._outbox.wait(lambda: self.alive and wanted())
        except (OSError, TransferError, MemoryError) as error:
            self._gone(error)
            return
        if not done:
            self._send_later()

    def fail(self, end: End, error: Exception) -> None:
        """End a transfer on this side, and tell the peer why."""
        if self.board.end(end, error):
            self.send(fail_of(end.number, error))

    def attach(self, number: int, sock: socket.socket, welcome: bytes = b"") -> None:
        """Carry slices over a connected socket; see `Streams.attach`."""
        self._streams.attach(number, sock, welcome)

    def streams(self) -> list[Stream]:
        """Those that carry now."""
        return self._streams.carrying()

    def close(self) -> None:
        """End in an orderly way, and wait for the threads."""
        self.end(TransferClosed("the link was closed on this side"), frames.Bye())
        self.join()

    def end(self, failure: Exception, *farewell: frames.Frame) -> None:
        """It is over; its own thread fails what is under way, and lets all end."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = again(failure)
        if farewell:
            self.send(*farewell)
        self._channel.shut()
        if self._thread.ident is None:
            self._tidy(failure)

    def join(self) -> None:
        """Wait for all threads, unless one of them asks."""
        here = threading.current_thread() is self._thread or self._streams.here()
        if not here and self._thread.ident is not None:
            self._thread.join()

    def _send_later(self) -> None:
        if not self._waits:
            self._waits = True
            self.timer.after(AGAIN_SECONDS, self._send_again)

    def _send_again(self) -> None:
        self._waits = False
        self.send()

    def _gone(self, error: Exception) -> None:
        broken = TransferBroken(f"the peer is gone: {error}")
        if isinstance(error, OSError) and self.running:
            # It may have said why, which is still to be read.
            self.timer.after(self.settings.grace_seconds, lambda: self.end(broken))
        else:
            self.end(broken)

    def _tidy(self, failure: Exception) -> None:
        if self._look_due is not None:
            self._look_due.cancel()
        self._streams.shut()
        self.board.close(failure)
        self._streams.join()
        self._outbox.close()
        self._role.session_over(self)

    def _run(self) -> None:
        failure = self._listen()
        self.end(failure)
        self._tidy(self._failure or failure)

    def _listen(self) -> Exception:
        """Read frames until there are no more; why."""
        try:
            for place in itertools.count(1):
                frame = frames.read_frame(self._channel.recv, place)
                self._heard = time.monotonic()
                if isinstance(frame, frames.Bye):
                    break
                self._dispatch(frame)
            return TransferEnded("the peer closed the link")
        except TransferIntegrityError as error:
            self._abandon(error)
            return error
        except MemoryError:
            broken = TransferBroken("no memory for what a session receives; free some")
            self._abandon(broken)
            return broken
        except (OSError, TransferError) as error:
            return TransferBroken(f"the peer is gone: {error}")
        except Exception as error:
            # Whatever it was, the transfers must not wait for a thread that is gone.
            _log.exception("a session failed")
            return TransferBroken(f"the session failed: {error!r}")

    def _abandon(self, error: TransferError) -> None:
        _log.warning("a session is given up: %s", str(error))
        self.end(error, fail_of(0, error))

    def _dispatch(self, frame: frames.Frame) -> None:
        match frame:
            case frames.Ping():
                self.send(frames.Pong())
            case frames.Pong():
                pass
            case frames.Fail(0):
                raise TransferBroken(str(failure_of(frame)))
            case frames.Fail(number):
                if (end := self.board.find(number)) is not None:
                    self.board.end(end, failure_of(frame))
            case frames.Lost(number):
                self._answer(number)
            case frames.Have(transfer, number, bits):
                self._streams.hear(number, transfer, bits)
            case frames.Known(number):
                arrived = self._streams.know(number)
                # The peer may never have had it, and not ask.
                self._streams.retire(number)
                self.board.lost(number, arrived)
            case _:
                self._role.handle(self, frame)

    def _answer(self, number: int) -> None:
        self._streams.retire(number)
        arrived = self.board.arrived()
        have = [frames.Have(n, number, bits) for n, bits in arrived.items() if bits]
        self.send(*have, frames.Known(number))

    def _lost(self, stream: Stream, error: TransferError | None) -> None:
        if not self.alive:
            return
        if error is not None:
            self._abandon(error)
            return
        self._streams.ask(stream.number)
        self.send(frames.Lost(stream.number))
        self._role.stream_lost(self)

    def _stalled(self, end: End) -> None:
        self.timer.after(self.settings.grace_seconds, lambda: self._break_off(end))

    def _break_off(self, end: End) -> None:
        for stream in self.streams():
            if stream.number in end.active:
                stream.shut()

    def _look(self) -> None:
        """Ask twice within the time after which a silent peer is dead."""
        if not self.alive:
            return
        silent = time.monotonic() - self._heard
        if silent > self.settings.dead_seconds:
            self.end(TransferBroken(f"the peer was silent for {silent:.1f} s"))
            return
        self._look_due = self.timer.after(self.settings.dead_seconds / 3, self._look)
        self.send(frames.Ping())
