"""A control channel that one thread reads while others write."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import Any, Protocol

from prefillshare.errors import TransferBroken, TransferRefused

_READ_BYTES = 1 << 16


class Channel(Protocol):
    """A connection that carries bytes both ways; any thread may send, one receives."""

    def send(self, data: bytes) -> None:
        """Send all; raises `OSError` if the connection is gone."""

    def recv(self, size: int) -> bytes:
        """Wait for up to `size` bytes, none at the end; `OSError` if it is gone."""

    def shut(self) -> None:
        """Wake a thread that waits in it, from any thread. May be repeated."""

    def close(self) -> None:
        """Close the socket."""


class PlainChannel:
    """A `Channel` over a connected socket as it is."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        self._sock.sendall(data)

    def recv(self, size: int) -> bytes:
        """See `Channel.recv`."""
        return self._sock.recv(size)

    def shut(self) -> None:
        """See `Channel.shut`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Channel.close`."""
        self._sock.close()


class TlsChannel:
    """A `Channel` encrypted by TLS.

    OpenSSL does not allow one thread to read while another writes, so the two
    directions meet in memory, under a lock that is never held while the socket waits.

    Raises `TransferRefused` if the peer is not trusted or does not trust this side,
    `TransferBroken` if it speaks no TLS or ends, `TimeoutError` after `deadline`
    (`time.monotonic`).
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        deadline: float,
    ) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._handshake(deadline)

    @property
    def peer_certificate(self) -> dict[str, Any]:
        """What the peer has shown, as `ssl.SSLSocket.getpeercert` gives it."""
        return dict(self._tls.getpeercert() or {})

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        with self._writing:
            with self._lock:
                self._tls.write(data)
                sealed = self._out.read()
            self._sock.sendall(sealed)

    def recv(self, size: int) -> bytes:
        """See `Channel.recv`; `TransferRefused` if the peer turned this side away."""
        while True:
            with self._lock:
                try:
                    return self._tls.read(size)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return b""
                except ssl.SSLError as error:
                    raise refusal(error) from error
            # The frames have a farewell of their own, and notice its absence.
            if not (data := self._sock.recv(_READ_BYTES)):
                return b""
            with self._lock:
                self._in.write(data)

    def shut(self) -> None:
        """See `Channel.shut`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Channel.close`."""
        self._sock.close()

    def _handshake(self, deadline: float) -> None:
        while True:
            error: ssl.SSLError | None = None
            wants = False
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                wants = True
            except ssl.SSLError as found:
                error = found
            # An alert that says why goes out, too.
            if sealed := self._out.read():
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._sock.sendall(sealed)
            if error is not None:
                raise refusal(error) from error
            if not wants:
                return
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            if not (data := self._sock.recv(_READ_BYTES)):
                raise TransferBroken("the peer ended the connection within a handshake")
            self._in.write(data)


def refusal(error: ssl.SSLError) -> TransferRefused:
    """What OpenSSL found wrong, in words that say what to do."""
    reason = (error.reason or str(error)).upper()
    detail = getattr(error, "verify_message", "") or ""
    if "EXPIRED" in reason or "expired" in detail:
        why = "a certificate has expired; make a new one with `prefillshare keys issue`"
    elif "CERTIFICATE_VERIFY_FAILED" in reason:
        why = f"the peer's certificate is not of this authority ({detail})"
    elif "UNKNOWN_CA" in reason:
        why = "the peer does not trust the authority of this side's certificate"
    elif "CERTIFICATE" in reason or "HANDSHAKE_FAILURE" in reason:
        why = f"certificates are needed on both sides ({reason})"
    elif "WRONG_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        why = "the peer does not speak TLS 1.3; give both sides certificates"
    else:
        why = f"TLS failed: {reason}"
    return TransferRefused(why)
