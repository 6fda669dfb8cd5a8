"""How two engines meet: the handshake of a session and of its streams, both sides.

A control connection begins with a frame (its first byte is 0) or with TLS (0x16), a
data connection with `PSTD`. Whoever makes a data connection proves that it is in the
session by an HMAC over the stream's number, with a key that only the two control
connections have seen.
"""

from __future__ import annotations

import hmac
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferRefused,
)
from prefillshare.transfer.base import CAPABILITY_BYTES, ID_BYTES
from prefillshare.transfer.secure.channel import Channel, PlainChannel, TlsChannel
from prefillshare.transfer.secure.contexts import Security
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.destination import Destination
from prefillshare.transfer.tcp.outcomes import failure_of
from prefillshare.transfer.tcp.session import Agreed
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import Address, connect, shut, tune, watch
from prefillshare.transfer.timer import Timer

STREAM = struct.Struct("!4s16sI32s")
STREAM_MAGIC = b"PSTD"
WELCOME = b"\1"


def proof_of(secret: bytes, session: bytes, number: int) -> bytes:
    """What shows that the maker of a stream is in the session."""
    return hmac.digest(secret, session + struct.pack("!I", number), "sha256")


def hello(
    engine: bytes,
    sealed: bool,
    session: bytes = bytes(ID_BYTES),
    secret: bytes = bytes(CAPABILITY_BYTES),
) -> frames.Hello:
    """The first frame of a side; only the answer has a session in it.

    `sealed` says that the side wants slices encrypted, in the answer that they are.
    """
    return frames.Hello(frames.MAGIC, frames.VERSION, sealed, engine, session, secret)


def wants_sealed(
    settings: TcpSettings, security: Security | None, peer: PeerIdentity | None
) -> bool:
    """Whether a side wants slices encrypted; if either does, they are."""
    if settings.sealed != "auto":
        return settings.sealed == "always"
    if security is None or peer is None:
        return False
    own = security.identity
    # Sites of two regions may have the same name.
    return (peer.region, peer.site) != (own.region, own.site)


@contextmanager
def within(timer: Timer, sock: socket.socket, seconds: float) -> Iterator[None]:
    """Break a socket off unless the block is over in so many seconds.

    A time-out of the socket's would begin anew with every byte.
    """
    due = timer.after(seconds, lambda: shut(sock))
    try:
        yield
    finally:
        due.cancel()


def read_hello(channel: Channel) -> frames.Hello:
    """The peer's first frame; `TransferError` for anything else."""
    frame = frames.read_frame(channel.recv)
    if isinstance(frame, frames.Fail):
        raise failure_of(frame)
    if not isinstance(frame, frames.Hello):
        raise TransferRefused(f"the peer began with {type(frame).__name__}")
    return frame.check()


@dataclass(frozen=True)
class Dialler:
    """Connects one engine to another."""

    engine: bytes
    to: Destination
    settings: TcpSettings
    security: Security | None
    timer: Timer

    @property
    def address(self) -> str:
        """Where it goes, as it was asked for."""
        return self.to.text

    def dial(self, timeout: float) -> tuple[Channel, Agreed]:
        """Make a control connection; see `Engine.connect` for errors."""
        deadline = time.monotonic() + min(timeout, self.settings.handshake_seconds)
        sock = self._connect(self.to.find(), deadline)
        try:
            with within(self.timer, sock, deadline - time.monotonic()):
                found = self._meet(sock, deadline)
            sock.settimeout(None)
            return found
        except (OSError, TransferError) as error:
            sock.close()
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise TransferBroken(f"{self.address}: no answer") from error
            if isinstance(error, TransferError):
                raise type(error)(f"{self.address}: {error}") from error
            raise TransferBroken(f"{self.address}: {error}") from error
        except BaseException:
            sock.close()
            raise

    def _meet(self, sock: socket.socket, deadline: float) -> tuple[Channel, Agreed]:
        channel, peer = self._channel(sock, deadline)
        self.to.check(peer)
        wanted = wants_sealed(self.settings, self.security, peer)
        channel.send(hello(self.engine, wanted).encode())
        answer = read_hello(channel)
        sealed = bool(answer.sealed)
        if wanted and not sealed:
            raise TransferRefused(
                "the peer does not encrypt slices, which this side's `sealed` wants"
            )
        found = answer.session, answer.secret, answer.engine, sealed
        return channel, Agreed(*found, sock.getpeername()[:2])

    def dial_stream(self, agreed: Agreed, number: int, timeout: float) -> socket.socket:
        """Make a data connection of a session, to where that one is.

        Raises `TransferBroken` if it fails.
        """
        deadline = time.monotonic() + min(timeout, self.settings.handshake_seconds)
        size = self.settings.buffer_bytes
        sock = self._connect(agreed.there, deadline, size)
        try:
            proof = proof_of(agreed.secret, agreed.session, number)
            sock.sendall(STREAM.pack(STREAM_MAGIC, agreed.session, number, proof))
            if sock.recv(1) != WELCOME:
                raise TransferBroken(
                    f"{self.address} takes no stream {number}; if it has enough, set "
                    "`streams` alike on both sides"
                )
            tune(sock, self.settings.dead_seconds)
            sock.settimeout(None)
        except (OSError, TransferError) as error:
            sock.close()
            if isinstance(error, TransferError):
                raise
            why = "no answer" if isinstance(error, TimeoutError) else str(error)
            raise TransferBroken(f"{self.address}: {why}") from error
        return sock

    def _connect(
        self, where: Address, deadline: float, buffer_bytes: int | None = None
    ) -> socket.socket:
        try:
            left = max(0.001, deadline - time.monotonic())
            sock = connect(where, left, buffer_bytes)
        except (OSError, UnicodeError) as error:
            raise TransferBroken(f"{self.address}: {error}") from error
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        return sock

    def _channel(
        self, sock: socket.socket, deadline: float
    ) -> tuple[Channel, PeerIdentity | None]:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        watch(sock, self.settings.dead_seconds)
        if self.security is None:
            return PlainChannel(sock), None
        context = self.security.client
        channel = TlsChannel(sock, context, server_side=False, deadline=deadline)
        return channel, self.security.check(channel.peer_certificate)
