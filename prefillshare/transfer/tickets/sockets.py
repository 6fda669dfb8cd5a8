"""Sockets with deadlines, vectored sends, and loopback alone."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time

from prefillshare.errors import ConfigError
from prefillshare.transfer.tickets.wire import RecvInto


def require_loopback(host: str) -> None:
    """Raise `ConfigError` unless `host` is a loopback address."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"host {host!r} is not a loopback address: KV moves unencrypted in this "
            "version; use 127.0.0.1 or ::1"
        )


def shut(sock: socket.socket) -> None:
    """Wake whichever thread is blocked in the socket."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def receiver(sock: socket.socket, deadline: float) -> RecvInto:
    """Return `recv_into` bounded by a deadline of `time.monotonic`."""

    def recv_into(view: memoryview) -> int:
        set_timeout(sock, deadline)
        return sock.recv_into(view)

    return recv_into


def set_timeout(sock: socket.socket, deadline: float) -> None:
    """Set what is left until a deadline; `TimeoutError` if that is nothing."""
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    sock.settimeout(left)


def send_all(sock: socket.socket, parts: list[memoryview | bytes]) -> None:
    """Send all parts from where they lie; raises `OSError`."""
    first = 0
    while first < len(parts):
        sent = sock.sendmsg(parts[first:])
        while first < len(parts) and sent >= len(parts[first]):
            sent -= len(parts[first])
            first += 1
        if sent:
            parts[first] = memoryview(parts[first])[sent:]
