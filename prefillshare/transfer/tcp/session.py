"""One connection between two engines: control frames, streams, and their ends."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferEnded,
    TransferError,
    TransferIntegrityError,
    TransferRefused,
)
from prefillshare.transfer.secure.channel import Channel
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.board import Board
from prefillshare.transfer.tcp.ends import End
from prefillshare.transfer.tcp.outcomes import fail_of, failure_of
from prefillshare.transfer.tcp.pacing import Pacer
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.slices import Ledger
from prefillshare.transfer.tcp.stream import Stream
from prefillshare.transfer.timer import Timer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreed:
    """What both sides know of a session after the handshake."""

    session: bytes
    secret: bytes
    peer: bytes
    sealed: bool


class Role(Protocol):
    """What a session does with what only one of the two sides is asked."""

    def handle(self, session: Session, frame: frames.Frame) -> None:
        """A frame about a transfer; raises `TransferIntegrityError` for a wrong one."""

    def stream_lost(self, session: Session) -> None:
        """A stream broke while the session lives."""

    def session_over(self, session: Session) -> None:
        """All transfers have ended or are about to."""


class Session:
    """Runs until the control connection ends, the peer is silent, or `close`."""

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
        self._pacer = Pacer(settings.bytes_per_second)
        self._outbox: deque[bytes] = deque()
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}
        # Broken streams whose arrivals the peer has not asked for yet.
        self._broken: dict[int, Stream] = {}
        self._known: dict[int, dict[int, Ledger]] = {}
        self._newest = 0
        self._failure: Exception | None = None
        self._heard = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, name="kv-control", daemon=True
        )

    def start(self) -> None:
        """Begin to read frames, and to look whether the peer is there."""
        self._thread.start()
        self._look()

    @property
    def alive(self) -> bool:
        """Whether transfers can begin."""
        return self._failure is None

    @property
    def running(self) -> bool:
        """Whether its threads have not all ended."""
        return self._thread.is_alive()

    def send(self, *messages: frames.Frame, wait: bool = False) -> None:
        """Send control frames; a connection that is gone ends the session.

        While another thread is sending, it sends these too, and only who says `wait`
        waits for that: a slow peer must not hold up what is timed.
        """
        self._outbox.append(b"".join(message.encode() for message in messages))
        while self._outbox and self._sending.acquire(blocking=wait):
            try:
                self._flush()
            except (OSError, TransferError) as error:
                self._outbox.clear()
                self.end(TransferBroken(f"the peer is gone: {error}"))
            finally:
                self._sending.release()

    def _flush(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._channel.send(self._outbox.popleft())

    def attach(self, number: int, sock: socket.socket, welcome: bytes = b"") -> None:
        """Carry slices over a connected socket, whose numbers go up.

        `welcome` is sent first, once the stream is sure to be taken: the peer makes the
        next one only then. Raises `TransferBroken` if the session is over,
        `TransferRefused` for a number that was there before, `OSError`.
        """
        with self._lock:
            if self._failure is not None:
                raise TransferBroken("the session is over")
            if number <= self._newest:
                raise TransferRefused(f"stream {number} comes after {self._newest}")
            self._newest = number
            sock.sendall(welcome)
            stream = Stream(number, sock, self.board, self._pacer, self._lost)
            self._streams[number] = stream
            stream.start()

    def streams(self) -> list[Stream]:
        """Those that carry now."""
        with self._lock:
            return list(self._streams.values())

    def close(self) -> None:
        """End in an orderly way, and wait for the threads."""
        self.end(TransferClosed("the link was closed on this side"), frames.Bye())
        self.join()

    def end(self, failure: Exception, *farewell: frames.Frame) -> None:
        """It is over; its own thread fails what is under way, and lets all end."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = failure
        if farewell:
            self.send(*farewell)
        self._channel.shut()
        if self._thread.ident is None:
            self._tidy(failure)

    def join(self) -> None:
        """Wait for all threads, unless one of them asks."""
        with self._lock:
            streams = [*self._streams.values(), *self._broken.values()]
        here = threading.current_thread()
        if here is self._thread or any(here in stream.threads for stream in streams):
            return
        if self._thread.ident is not None:
            self._thread.join()

    def _tidy(self, failure: Exception) -> None:
        self._pacer.close()
        with self._lock:
            streams = [*self._streams.values(), *self._broken.values()]
        for stream in streams:
            stream.shut()
        self.board.close(failure)
        for stream in streams:
            stream.join()
        self._channel.close()
        self._role.session_over(self)

    def _run(self) -> None:
        failure: Exception
        try:
            while True:
                frame = frames.read_frame(self._channel.recv)
                self._heard = time.monotonic()
                if isinstance(frame, frames.Bye):
                    failure = TransferEnded("the peer closed the link")
                    break
                self._dispatch(frame)
        except TransferIntegrityError as error:
            self._abandon(error)
            failure = error
        except (OSError, TransferError) as error:
            failure = TransferBroken(f"the peer is gone: {error}")
        self.end(failure)
        self._tidy(self._failure or failure)

    def _abandon(self, error: TransferIntegrityError) -> None:
        _log.warning("a peer broke the protocol: %s", error)
        self.send(fail_of(0, error))

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
                arrived = self._known.setdefault(number, {})
                arrived[transfer] = Ledger.from_bytes(bits)
            case frames.Known(number):
                self.board.lost(number, self._known.pop(number, {}))
            case _:
                self._role.handle(self, frame)

    def _answer(self, number: int) -> None:
        with self._lock:
            stream = self._streams.get(number) or self._broken.get(number)
        if stream is None:
            raise TransferIntegrityError(f"there was no stream {number} to lose")
        stream.shut()
        stream.join()
        with self._lock:
            self._broken.pop(number, None)
        arrived = self.board.arrived()
        have = [frames.Have(n, number, bits) for n, bits in arrived.items() if bits]
        self.send(*have, frames.Known(number))

    def _lost(self, stream: Stream, error: TransferIntegrityError | None) -> None:
        with self._lock:
            over = self._failure is not None
            if self._streams.pop(stream.number, None) is not None:
                self._broken[stream.number] = stream
        if over:
            return
        if error is not None:
            self._abandon(error)
            self.end(error)
            return
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
        self.timer.after(self.settings.dead_seconds / 3, self._look)
        self.send(frames.Ping())
