"""What a plain socket, or an `ssl` socket, does to move bytes from and to views.

Blocks are gathered and scattered by the kernel, as many as a call takes.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import numpy as np

from prefillshare.bench.transfer.engines import security
from prefillshare.bench.transfer.shapes import Memory
from prefillshare.bench.transfer.specs import Bare
from prefillshare.errors import TransferBroken
from prefillshare.transfer.base import Ranges
from prefillshare.transfer.secure.contexts import Security

# What Linux takes in one call (UIO_MAXIOV).
MAX_VIEWS = 1024
# A stream is not worth waking for less.
MIN_SHARE = 1 << 16

Group = list[memoryview]


class TlsStream:
    """An `ssl` socket, called as a plain one: it takes one piece of memory a call."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._stream = stream

    def sendall(self, data: bytes | memoryview) -> None:
        """See `socket.sendall`."""
        self._stream.sendall(data)

    def sendmsg(self, views: Group) -> int:
        """Sends the first of them."""
        self._stream.sendall(views[0])
        return len(views[0])

    def recv(self, size: int) -> bytes:
        """See `socket.recv`."""
        return self._stream.recv(size)

    def recv_into(self, view: memoryview, size: int, flags: int) -> int:
        """As many bytes as a record of TLS has."""
        return self._stream.recv_into(view)

    def recvmsg_into(self, views: Group, size: int, flags: int) -> tuple[int]:
        """Receives into the first of them."""
        return (self._stream.recv_into(views[0]),)

    def shutdown(self, how: int) -> None:
        """See `socket.shutdown`."""
        self._stream.shutdown(how)

    def close(self) -> None:
        """See `socket.close`."""
        self._stream.close()


Connection = socket.socket | TlsStream


def shares(ranges: Ranges, streams: int) -> list[Ranges]:
    """Ranges for each stream, of about as many bytes each; fewer if there are few.

    Ranges of equal length are dealt out whole, a single one is cut.
    """
    payload = int(ranges[:, 1].sum())
    streams = max(1, min(streams, payload // MIN_SHARE))
    if len(ranges) > 1:
        return [each for each in np.array_split(ranges, streams) if len(each)]
    ends = np.linspace(0, payload, streams + 1).astype(np.int64)
    starts = ranges[0, 0] + ends[:-1]
    return list(np.stack([starts, np.diff(ends)], axis=1)[:, None, :])


def groups(memory: Memory, ranges: Ranges, call_bytes: int) -> list[Group]:
    """The views that each call moves."""
    view = memory.data
    found: list[Group] = []
    room = 0
    for start, length in ranges.tolist():
        for at in range(start, start + length, call_bytes):
            piece = view[at : min(at + call_bytes, start + length)]
            if not found or len(piece) > room or len(found[-1]) == MAX_VIEWS:
                found.append([])
                room = call_bytes
            found[-1].append(piece)
            room -= len(piece)
    return found


def send(stream: Connection, parts: list[Group]) -> None:
    """All groups, in their order."""
    for group in parts:
        if len(group) == 1:
            stream.sendall(group[0])
            continue
        rest = group
        while rest:
            rest = _after(rest, stream.sendmsg(rest))


def receive(stream: Connection, parts: list[Group]) -> None:
    """All groups, in their order; `TransferBroken` if the peer is gone."""
    for group in parts:
        rest = group
        while rest:
            if len(rest) == 1:
                count = stream.recv_into(rest[0], 0, socket.MSG_WAITALL)
            else:
                count = stream.recvmsg_into(rest, 0, socket.MSG_WAITALL)[0]
            if not count:
                raise TransferBroken("the sending process is gone; see its output")
            rest = _after(rest, count)


def _after(group: Group, count: int) -> Group:
    """What is left of a group after so many bytes."""
    for i, view in enumerate(group):
        if count < len(view):
            return [view[count:], *group[i + 1 :]]
        count -= len(view)
    return []


def tune(stream: socket.socket, spec: Bare, timeout: float) -> None:
    """Set what a socket has to have before it is connected or accepted."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A timeout of Python's would make the socket non-blocking, with a poll a call.
    patience = int(timeout).to_bytes(8, "little") + bytes(8)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    if spec.buffer_bytes is not None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            stream.setsockopt(socket.SOL_SOCKET, option, spec.buffer_bytes)


def covered(
    stream: socket.socket, spec: Bare, certificates: Path | None, *, server: bool
) -> Connection:
    """The stream as it is used: itself, or after the handshake of TLS."""
    if not spec.tls:
        return stream
    made = Security(security(certificates))
    context = made.server if server else made.client
    return TlsStream(context.wrap_socket(stream, server_side=server))
