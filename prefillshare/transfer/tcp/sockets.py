"""Sockets for fat and long pipes: vectored calls, buffers, the kernel's figures."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from prefillshare.errors import TransferBroken
from prefillshare.transfer.tcp.buffers import size_buffers

_BACKLOG = 128
# Linux takes 1024 pieces a call (IOV_MAX).
_PIECES = 1000
# What the kernel takes of a stream beyond what is under way: with more, a slow path
# would hold its share back from the others; with less, a fast one runs dry.
_UNSENT_BYTES = 1 << 20
# So much has to have come for the thread that receives a slice to be woken, which it is
# at every packet otherwise.
_WORTH_WAKING = 1 << 18
# From struct tcp_info of linux/tcp.h: rtt in us, retransmitted segments in all, and the
# rate at which data were lately delivered, in bytes per second.
_RTT, _RETRANSMITS, _DELIVERY = (68, "I"), (100, "I"), (160, "Q")
_INFO_BYTES = 232
Address = tuple[str, int]


def parse_address(text: str) -> Address:
    """Host and port of `tcp://HOST:PORT`, IPv6 in brackets; `ValueError` otherwise."""
    scheme, _, rest = text.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address; write tcp://HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def format_address(host: str, port: int) -> str:
    """Undo `parse_address`."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int, buffer_bytes: int | None) -> socket.socket:
    """A socket whose connections have such buffers; raises `OSError`."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        size_buffers(sock, buffer_bytes)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(
    where: Address, timeout: float, buffer_bytes: int | None = None
) -> socket.socket:
    """A connection to the first address of a host that takes it; raises `OSError`.

    `timeout`, in seconds, is for each of them.
    """
    failed = OSError(f"{where[0]} has no address")
    for family, kind, protocol, _, there in socket.getaddrinfo(
        *where, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            size_buffers(sock, buffer_bytes)
            sock.connect(there)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed


def tune(sock: socket.socket, dead_seconds: float) -> None:
    """Set a data connection up.

    A peer that acknowledges nothing for `dead_seconds` is dead.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    watch(sock, dead_seconds)


def watch(sock: socket.socket, dead_seconds: float) -> None:
    """Have the kernel notice a peer whose machine is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp = socket.IPPROTO_TCP
    every = max(1, int(dead_seconds / 4))
    sock.setsockopt(tcp, socket.TCP_KEEPIDLE, every)
    sock.setsockopt(tcp, socket.TCP_KEEPINTVL, every)
    sock.setsockopt(tcp, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, int(1000 * dead_seconds))


def shut(sock: socket.socket) -> None:
    """Wake whichever thread is blocked in the socket."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


# Of thousands of small pieces, none costs a statement of Python's: lengths are summed
# up by the interpreter's own loops, and where a call ended is searched for.


def send_all(sock: socket.socket, parts: Sequence[memoryview | bytes]) -> None:
    """Send all parts from where they lie; raises `OSError`."""
    waiting, ends = list(parts), list(accumulate(map(len, parts)))
    first, done = 0, 0
    while first < len(waiting):
        done += sock.sendmsg(waiting[first : first + _PIECES])
        first = _advance(waiting, ends, first, done)


def receive_all(sock: socket.socket, views: Sequence[memoryview]) -> None:
    """Receive until all views are full; `TransferBroken` at the end of the stream."""
    waiting: list[memoryview | bytes] = list(views)
    ends = list(accumulate(map(len, views)))
    if ends and ends[-1] >= 2 * _WORTH_WAKING:
        # Of the first part more is always to come: it is not waited for in vain.
        last = _cut(waiting, ends, ends[-1] - _WORTH_WAKING)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _WORTH_WAKING)
        _receive(sock, waiting[:last], ends[:last])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        waiting = waiting[last:]
        ends = list(accumulate(map(len, waiting)))
    _receive(sock, waiting, ends)


def _receive(
    sock: socket.socket, waiting: list[memoryview | bytes], ends: list[int]
) -> None:
    first, done = 0, 0
    while first < len(waiting):
        into = waiting[first : first + _PIECES]
        count = sock.recvmsg_into(into, 0, socket.MSG_WAITALL)[0]
        if not count:
            raise TransferBroken("the peer ended a stream within a transfer")
        done += count
        first = _advance(waiting, ends, first, done)


def _cut(parts: list[memoryview | bytes], ends: list[int], at: int) -> int:
    """See that a part begins at so many bytes; which."""
    part = bisect_left(ends, at)
    if ends[part] > at:
        whole = memoryview(parts[part])
        size = at - (ends[part] - len(whole))
        parts[part : part + 1] = [whole[:size], whole[size:]]
        ends.insert(part, at)
    return part + 1


def _advance(
    parts: list[memoryview | bytes], ends: list[int], first: int, done: int
) -> int:
    """The first part that is not over after so many bytes, cut down to its rest."""
    first = bisect_right(ends, done, first)
    if first < len(parts) and (left := ends[first] - done) < len(parts[first]):
        parts[first] = memoryview(parts[first])[-left:]
    return first


def kernel_info(sock: socket.socket) -> tuple[float, int, int]:
    """Smoothed RTT in seconds, retransmitted segments, delivery rate in bytes/s."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    raw = raw.ljust(_INFO_BYTES, b"\0")
    rtt, again, rate = (
        struct.unpack_from("=" + form, raw, at)[0]
        for at, form in (_RTT, _RETRANSMITS, _DELIVERY)
    )
    return rtt / 1e6, again, rate
