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
from dataclasses import dataclass

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferRefused,
)
from prefillshare.transfer.base import CAPABILITY_BYTES, ID_BYTES
from prefillshare.transfer.secure.channel import Channel, PlainChannel, TlsChannel
from prefillshare.transfer.secure.contexts import Security
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.outcomes import failure_of
from prefillshare.transfer.tcp.session import Agreed
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import parse_address, tune, watch

STREAM = struct.Struct("!4s16sI32s")
STREAM_MAGIC = b"PSTD"
WELCOME = b"\1"


def proof_of(secret: bytes, session: bytes, number: int) -> bytes:
    """What shows that the maker of a stream is in the session."""
    return hmac.digest(secret, session + struct.pack("!I", number), "sha256")


def hello(engine: bytes, agreed: Agreed | None = None) -> frames.Hello:
    """The first frame of a side; only the answer has a session in it."""
    session = agreed.session if agreed else bytes(ID_BYTES)
    secret = agreed.secret if agreed else bytes(CAPABILITY_BYTES)
    sealed = agreed.sealed if agreed else False
    return frames.Hello(frames.MAGIC, frames.VERSION, sealed, engine, session, secret)


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
    """Connects one engine to the address of another."""

    engine: bytes
    address: str
    settings: TcpSettings
    security: Security | None

    def dial(self, timeout: float) -> tuple[Channel, Agreed]:
        """Make a control connection; see `Engine.connect` for errors."""
        deadline = time.monotonic() + min(timeout, self.settings.handshake_seconds)
        sock = self._connect(deadline)
        try:
            channel = self._channel(sock, deadline)
            channel.send(hello(self.engine).encode())
            answer = read_hello(channel)
            sock.settimeout(None)
        except TimeoutError as error:
            sock.close()
            raise TransferBroken(f"{self.address} does not answer") from error
        except (OSError, TransferError) as error:
            sock.close()
            if isinstance(error, TransferError):
                raise type(error)(f"{self.address}: {error}") from error
            raise TransferBroken(f"{self.address}: {error}") from error
        agreed = Agreed(
            answer.session, answer.secret, answer.engine, bool(answer.sealed)
        )
        return channel, agreed

    def dial_stream(self, agreed: Agreed, number: int, timeout: float) -> socket.socket:
        """Make a data connection of a session; `TransferBroken` if it fails."""
        deadline = time.monotonic() + min(timeout, self.settings.handshake_seconds)
        sock = self._connect(deadline)
        try:
            proof = proof_of(agreed.secret, agreed.session, number)
            sock.sendall(STREAM.pack(STREAM_MAGIC, agreed.session, number, proof))
            if sock.recv(1) != WELCOME:
                raise TransferBroken(f"{self.address} takes no stream {number}")
            tune(sock, self.settings.buffer_bytes, self.settings.dead_seconds)
            sock.settimeout(None)
        except OSError as error:
            sock.close()
            raise TransferBroken(f"{self.address}: {error}") from error
        except TransferError:
            sock.close()
            raise
        return sock

    def _connect(self, deadline: float) -> socket.socket:
        try:
            left = max(0.001, deadline - time.monotonic())
            sock = socket.create_connection(parse_address(self.address), left)
        except (OSError, UnicodeError) as error:
            raise TransferBroken(f"{self.address}: {error}") from error
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        return sock

    def _channel(self, sock: socket.socket, deadline: float) -> Channel:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        watch(sock, self.settings.dead_seconds)
        if self.security is None:
            return PlainChannel(sock)
        context = self.security.client
        channel = TlsChannel(sock, context, server_side=False, deadline=deadline)
        self.security.check(channel.peer_certificate)
        return channel
