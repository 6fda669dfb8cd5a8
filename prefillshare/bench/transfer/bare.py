"""The baseline: plain Python sockets, as fast as they go.

It has no checksums, no grants and no framing, and both sides know the table of blocks
before the clock starts. Blocks are gathered and scattered by the kernel, as many as a
call takes; every stream is answered with one byte when all of its bytes have come.
"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from prefillshare.bench.transfer.settings import Bare
from prefillshare.bench.transfer.shapes import Memory, Plan, buffer
from prefillshare.errors import TransferBroken
from prefillshare.transfer.base import Ranges

# What Linux takes in one call (UIO_MAXIOV).
MAX_VIEWS = 1024
# A stream is not worth waking for less.
MIN_SHARE = 1 << 16

Group = list[memoryview]


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


def send(stream: socket.socket, parts: list[Group]) -> None:
    """All groups, in their order."""
    for group in parts:
        if len(group) == 1:
            stream.sendall(group[0])
            continue
        rest = group
        while rest:
            rest = _after(rest, stream.sendmsg(rest))


def receive(stream: socket.socket, parts: list[Group]) -> None:
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


class BareReceiver:
    """Receives into `memory`, one thread a stream."""

    def __init__(self, spec: Bare, size: int, timeout: float) -> None:
        self._spec, self.memory = spec, buffer(size)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=spec.streams)
        tune(self._listener, spec, timeout)
        self._streams: dict[int, socket.socket] = {}
        self._pool = ThreadPoolExecutor(spec.streams)
        self._coming: list[Any] = []

    @property
    def address(self) -> str:
        """The port."""
        return str(self._listener.getsockname()[1])

    def arrange(self, plan: Plan, count: int) -> list[dict[str, Any]]:
        """Start receiving."""
        while len(self._streams) < self._spec.streams:
            stream, _ = self._listener.accept()
            self._streams[stream.recv(1)[0]] = stream
        ranges = plan.batch()[:, 1:]
        self._coming = [
            self._pool.submit(self._take, self._streams[i], self._groups(share), count)
            for i, share in enumerate(shares(ranges, self._spec.streams))
        ]
        return [{} for _ in range(count)]

    def _groups(self, share: Ranges) -> list[Group]:
        return groups(self.memory, share, self._spec.call_bytes)

    def _take(self, stream: socket.socket, parts: list[Group], count: int) -> None:
        for _ in range(count):
            receive(stream, parts)
            stream.sendall(b"k")

    def settle(self) -> None:
        """Wait for the threads."""
        for each in self._coming:
            each.result()

    def close(self) -> None:
        """Close the sockets; threads that still wait for bytes end by that."""
        for stream in self._streams.values():
            stream.shutdown(socket.SHUT_RDWR)
        self._pool.shutdown()
        for stream in (self._listener, *self._streams.values()):
            stream.close()


class BareSender:
    """Sends out of `memory`."""

    def __init__(self, spec: Bare, size: int, timeout: float) -> None:
        self._spec, self._timeout = spec, timeout
        self.memory = buffer(size)
        self._streams: list[socket.socket] = []
        self._parts: list[list[Group]] = []
        self._pool = ThreadPoolExecutor(spec.streams)

    def connect(self, address: str) -> None:
        """One connection a stream, numbered by its first byte."""
        for i in range(self._spec.streams):
            stream = socket.socket()
            self._streams.append(stream)
            tune(stream, self._spec, self._timeout)
            stream.connect(("127.0.0.1", int(address)))
            stream.sendall(bytes([i]))

    def arrange(self, plan: Plan) -> None:
        """Make the views."""
        batch = plan.batch()
        ranges = batch[:, [0, 2]]
        self._parts = [
            groups(self.memory, share, self._spec.call_bytes)
            for share in shares(ranges, self._spec.streams)
        ]

    def move(self, ticket: dict[str, Any]) -> None:
        """All streams at once; the only one in the caller's thread."""
        if len(self._parts) == 1:
            self._send(0)
            return
        for _ in self._pool.map(self._send, range(len(self._parts))):
            pass

    def _send(self, i: int) -> None:
        stream = self._streams[i]
        send(stream, self._parts[i])
        if stream.recv(1) != b"k":
            raise TransferBroken("the receiving process is gone; see its output")

    def close(self) -> None:
        """Close the sockets."""
        self._pool.shutdown()
        for stream in self._streams:
            stream.close()
