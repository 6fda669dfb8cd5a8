"""A control channel that one thread reads while others write."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from typing import Any, Protocol

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIdentityError,
    TransferIntegrityError,
    TransferRefused,
)

_READ_BYTES = 1 << 16


class Channel(Protocol):
    """A connection that carries bytes both ways; one thread sends while one receives.

    What is sent goes through `seal` first, and leaves in that order.
    """

    def send(self, data: bytes) -> None:
        """Seal and send all; raises `OSError` if the connection is gone."""

    def seal(self, data: bytes) -> bytes:
        """The data as they travel."""

    def send_some(self, sealed: memoryview) -> int:
        """Send what the socket takes at once; how much; raises as `send`."""

    def wait_writable(self, seconds: float) -> None:
        """Wait, at most so long, until the socket takes more."""

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
        self._sock.sendall(self.seal(data))

    def seal(self, data: bytes) -> bytes:
        """See `Channel.seal`."""
        return data

    def send_some(self, sealed: memoryview) -> int:
        """See `Channel.send_some`."""
        try:
            return self._sock.send(sealed, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def wait_writable(self, seconds: float) -> None:
        """See `Channel.wait_writable`."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        poll.poll(1000 * seconds)

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


class TlsChannel(PlainChannel):
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
        super().__init__(sock)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self._lock = threading.Lock()
        self._handshake(deadline)

    @property
    def peer_certificate(self) -> dict[str, Any]:
        """See `certificate_of`."""
        return certificate_of(self._tls)

    def seal(self, data: bytes) -> bytes:
        """See `Channel.seal`."""
        with self._lock:
            self._tls.write(data)
            return self._out.read()

    def recv(self, size: int) -> bytes:
        """See `Channel.recv`.

        Raises `TransferRefused` if the peer turned this side away,
        `TransferIntegrityError` for what it has not sent.
        """
        while True:
            with self._lock:
                try:
                    return self._tls.read(size)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return b""
                except ssl.SSLError as error:
                    raise _after_handshake(error) from error
            # The frames have a farewell of their own, and notice its absence.
            if not (data := self._sock.recv(_READ_BYTES)):
                return b""
            with self._lock:
                self._in.write(data)

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


def certificate_of(tls: ssl.SSLObject) -> dict[str, Any]:
    """What the peer has shown, as `ssl.SSLObject.getpeercert` gives it.

    `TransferIdentityError` for names that are no text.
    """
    try:
        return dict(tls.getpeercert() or {})
    except ValueError as error:
        raise TransferIdentityError(
            f"a certificate whose names cannot be read ({error}); make it with "
            "`prefillshare keys issue`"
        ) from error


def _after_handshake(error: ssl.SSLError) -> TransferError:
    # TLS 1.3 tells a client of its certificate's refusal when the handshake is over.
    if "ALERT" in (error.reason or "") and "RECORD_MAC" not in (error.reason or ""):
        return refusal(error)
    return TransferIntegrityError(
        f"the control connection was damaged or changed on its way ({error.reason})"
    )


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
