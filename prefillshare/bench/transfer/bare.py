"""The baseline: plain Python sockets, as fast as they go, or `ssl` sockets.

They have no checksums, no grants and no framing, and both sides know the table of
blocks before the clock starts. Every stream is answered with one byte when all of its
bytes have come.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from prefillshare.bench.transfer.shapes import Plan, buffer
from prefillshare.bench.transfer.specs import Bare
from prefillshare.bench.transfer.streams import (
    Connection,
    Group,
    covered,
    groups,
    receive,
    send,
    shares,
    tune,
)
from prefillshare.errors import TransferBroken
from prefillshare.transfer.base import Ranges
from prefillshare.transfer.tcp.sockets import format_address, parse_address


class BareReceiver:
    """Receives into `memory`, one thread a stream."""

    def __init__(
        self, spec: Bare, size: int, timeout: float, certificates: Path | None
    ) -> None:
        self._spec, self.memory, self._certificates = spec, buffer(size), certificates
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=spec.streams)
        tune(self._listener, spec, timeout)
        self._streams: dict[int, Connection] = {}
        # One more, for the owner who is told.
        self._pool = ThreadPoolExecutor(spec.streams + 1)
        self._accepted = self._pool.submit(self._accept)
        self._coming: list[Future[None]] = []
        self._told: SimpleQueue[bool] = SimpleQueue()

    @property
    def address(self) -> str:
        """Where it listens."""
        return format_address(*self._listener.getsockname())

    def _accept(self) -> None:
        while len(self._streams) < self._spec.streams:
            stream, _ = self._listener.accept()
            ours = covered(stream, self._spec, self._certificates, server=True)
            self._streams[ours.recv(1)[0]] = ours

    def arrange(self, plan: Plan, count: int) -> list[dict[str, Any]]:
        """Start receiving."""
        self._accepted.result()
        ranges = plan.batch()[:, 1:]
        self._coming = [
            self._pool.submit(self._take, self._streams[i], self._groups(share), count)
            for i, share in enumerate(shares(ranges, self._spec.streams))
        ]
        if self._spec.handed:
            self._coming.append(self._pool.submit(self._own, count * len(self._coming)))
        return [{} for _ in range(count)]

    def _groups(self, share: Ranges) -> list[Group]:
        return groups(self.memory, share, self._spec.call_bytes)

    def _take(self, stream: Connection, parts: list[Group], count: int) -> None:
        for _ in range(count):
            receive(stream, parts)
            if self._spec.handed:
                self._told.put(True)
            stream.sendall(b"k")

    def _own(self, count: int) -> None:
        for _ in range(count):
            self._told.get()

    def settle(self) -> None:
        """Wait for the threads."""
        for each in self._coming:
            each.result()

    def close(self) -> None:
        """Close the sockets; threads that still wait for them end by that."""
        _shut((self._listener, *self._streams.values()))
        self._pool.shutdown()
        for stream in (self._listener, *self._streams.values()):
            stream.close()


class BareSender:
    """Sends out of `memory`."""

    def __init__(
        self,
        spec: Bare,
        size: int,
        timeout: float,
        certificates: Path | None,
        routes: Mapping[str, str],
    ) -> None:
        self._routes = routes
        self._spec, self._timeout, self._certificates = spec, timeout, certificates
        self.memory = buffer(size)
        self._streams: list[Connection] = []
        self._parts: list[list[Group]] = []
        # Who sends on a stream, and who reads it.
        self._pool = ThreadPoolExecutor(2 * spec.streams)
        self._answers: list[SimpleQueue[bytes]] = []

    def connect(self, address: str) -> None:
        """One connection a stream, numbered by its first byte."""
        where = parse_address(self._routes.get(address, address))
        for i in range(self._spec.streams):
            stream = socket.socket()
            tune(stream, self._spec, self._timeout)
            stream.connect(where)
            ours = covered(stream, self._spec, self._certificates, server=False)
            self._streams.append(ours)
            ours.sendall(bytes([i]))
        if self._spec.handed:
            self._answers = [SimpleQueue() for _ in self._streams]
            for ours, answers in zip(self._streams, self._answers, strict=True):
                self._pool.submit(_hand_on, ours, answers)

    def arrange(self, plan: Plan, tickets: Sequence[dict[str, Any]]) -> None:
        """Make the views."""
        batch = plan.batch()
        ranges = batch[:, [0, 2]]
        self._parts = [
            groups(self.memory, share, self._spec.call_bytes)
            for share in shares(ranges, self._spec.streams)
        ]

    def move(self) -> None:
        """All streams at once; the only one in the caller's thread."""
        if len(self._parts) == 1:
            self._send(0)
            return
        for _ in self._pool.map(self._send, range(len(self._parts))):
            pass

    def _send(self, i: int) -> None:
        stream = self._streams[i]
        send(stream, self._parts[i])
        answer = self._answers[i].get() if self._spec.handed else stream.recv(1)
        if answer != b"k":
            raise TransferBroken("the receiving process is gone; see its output")

    def close(self) -> None:
        """Close the sockets; threads that still read them end by that."""
        _shut(self._streams)
        self._pool.shutdown()
        for stream in self._streams:
            stream.close()


def _hand_on(stream: Connection, answers: SimpleQueue[bytes]) -> None:
    """Read a stream until it ends, or breaks, which is handed on as no byte."""
    answer = b"k"
    while answer:
        try:
            answer = stream.recv(1)
        except OSError:
            answer = b""
        answers.put(answer)


def _shut(streams: Iterable[Connection]) -> None:
    for stream in streams:
        # One that was reset is not connected any more.
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)
